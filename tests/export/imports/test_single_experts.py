"""Adapters on single experts, as transformers 4 had them: imported, they add to each expert what they added, whatever settled its scale."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from lora_studio.core.control import TaskContext
from lora_studio.core.errors import InputError
from lora_studio.export.imports.importer import import_task
from tests.export.adapters import with_adapter
from tests.families.configs import tiny_family_model
from tests.tiny import save_tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")
R, ALPHA = 2, 6
FAMILIES = ("qwen3_moe", "mixtral", "olmoe", "deepseek_v3", "glm4_moe")
MIXTRAL = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
Bases = Callable[[str], Path]
Strength = Callable[[int, str], tuple[int, float]]


@dataclass(frozen=True)
class Case:
    """Settings, and what they mean by hand.

    Attributes:
        settings: Of `adapter_config.json`.
        strength: Rank and alpha of an expert's projection.
        has: Whether an expert's projection has an update.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    strength: Strength = lambda _expert, _projection: (R, ALPHA)
    has: Callable[[int, str], bool] = lambda _expert, _projection: True


CASES = {
    "plain": Case(),
    "rslora": Case({"use_rslora": True}),
    "alpha of a projection": Case({"alpha_pattern": {"up_proj": 24}}, lambda _, projection: (R, 24 if projection == "up_proj" else ALPHA)),
    "alpha of an expert": Case({"alpha_pattern": {r"experts\.2\.\w+": 3}}, lambda expert, _: (R, 3 if expert == 2 else ALPHA)),
    "rank of projections": Case(
        {"rank_pattern": {"down_proj": 1, "gate_proj": 4}},
        lambda _, projection: ({"down_proj": 1, "gate_proj": 4}.get(projection, R), ALPHA),
    ),
    "rank and alpha of experts by rsLoRA": Case(
        {"use_rslora": True, "rank_pattern": {r"experts\.1\.\w+": 4}, "alpha_pattern": {r"experts\.[01]\.down_proj": 5}},
        lambda expert, projection: (4 if expert == 1 else R, 5 if expert < 2 and projection == "down_proj" else ALPHA),
    ),
    "alpha of all, by a pattern": Case({"alpha_pattern": {".*experts.*": 9}}, lambda _expert, _projection: (R, 9)),
    "some experts": Case(
        {"target_modules": r".*experts\.[13]\.(gate_proj|up_proj|down_proj|w1|w2|w3)"}, has=lambda expert, _: expert in (1, 3)
    ),
    "the gate alone": Case({"target_modules": ["gate_proj"], "use_rslora": True}, has=lambda _, projection: projection == "gate_proj"),
    "no down projection": Case({"target_modules": ["gate_proj", "up_proj"]}, has=lambda _, projection: projection != "down_proj"),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    """Tiny models of families whose experts were modules in transformers 4, each made once."""
    made: dict[str, Path] = {}

    def base(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp("bases") / family
            tiny_family_model(family).float().save_pretrained(made[family])
            save_tiny_tokenizer(made[family])
        return made[family]

    return base


def spelled(settings: Any, family: str) -> Any:
    """Write projections' names as the family has them."""
    text = json.dumps(settings)
    for name, other in MIXTRAL.items() if family == "mixtral" else ():
        text = text.replace(name, other)
    return json.loads(text)


def experts_of(model: Any) -> tuple[str, Any]:
    """Return the name and the module of the last layer's experts."""
    return [(name, module) for name, module in model.named_modules() if name.endswith(".experts") and hasattr(module, "gate_up_proj")][-1]


def write_adapter(folder: Path, base: Path, family: str, case: Case) -> dict[str, Tensor]:
    """Write an adapter on the experts of the last layer; give what it adds, experts × out × in each, in float64."""
    name, experts = experts_of(AutoModelForCausalLM.from_pretrained(base))
    count, doubled, columns = experts.gate_up_proj.shape
    sizes = {"gate_proj": (doubled // 2, columns), "up_proj": (doubled // 2, columns), "down_proj": (columns, doubled // 2)}
    added = {projection: torch.zeros(count, *size, dtype=torch.float64) for projection, size in sizes.items()}
    owner = name.replace(".mlp.", ".block_sparse_moe.") if family == "mixtral" else name
    torch.manual_seed(3)
    tensors: dict[str, Tensor] = {}
    for expert in range(count):
        for projection, (rows, inputs) in sizes.items():
            r, alpha = case.strength(expert, projection)
            a, b = 0.2 * torch.randn(r, inputs), 0.2 * torch.randn(rows, r)
            if case.has(expert, projection):
                key = f"base_model.model.{owner}.{expert}.{spelled(projection, family)}"
                tensors[f"{key}.lora_A.weight"], tensors[f"{key}.lora_B.weight"] = a, b
                scale = alpha / r**0.5 if case.settings.get("use_rslora") else alpha / r
                added[projection][expert] = scale * b.double() @ a.double()
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": R, "lora_alpha": ALPHA, "base_model_name_or_path": str(base)}
    config |= {"target_modules": list(sizes), **case.settings}
    (folder / "adapter_config.json").write_text(
        json.dumps({**config, **spelled({key: config[key] for key in config if key in CHANGED}, family)})
    )
    return added


CHANGED = ("target_modules", "rank_pattern", "alpha_pattern")


def imported(folder: Path) -> Path:
    last: Any = list(import_task(TaskContext(), str(folder)))[-1]
    return Path(last.result["path"])


@pytest.mark.parametrize(
    ("family", "case"), [("qwen3_moe", name) for name in CASES] + [(family, name) for family in FAMILIES[1:] for name in list(CASES)[1:7:2]]
)
def test_each_expert_gets_what_it_got(family: str, case: str, bases: Bases, tmp_path: Path) -> None:
    base = bases(family)
    added = write_adapter(tmp_path / "mine", base, family, CASES[case])
    taken = imported(tmp_path / "mine")
    _, before = experts_of(AutoModelForCausalLM.from_pretrained(base))
    _, after = experts_of(with_adapter(base, taken).merge_and_unload())
    gate_up = torch.cat([added["gate_proj"], added["up_proj"]], dim=1)
    for parameter, wanted in (("gate_up_proj", gate_up), ("down_proj", added["down_proj"])):
        found = (getattr(after, parameter) - getattr(before, parameter)).double()
        assert (found - wanted).abs().max() < 2e-6, parameter
        assert wanted.abs().max() > 0.05 or parameter == "down_proj"


def test_settings_without_patterns_stay_short(bases: Bases, tmp_path: Path) -> None:
    base = bases("qwen3_moe")
    write_adapter(tmp_path / "mine", base, "qwen3_moe", CASES["plain"])
    config = json.loads((imported(tmp_path / "mine") / "adapter_config.json").read_text())
    assert config["rank_pattern"] == {"experts.gate_up_proj": 2 * R}
    assert config["alpha_pattern"] == {"experts.gate_up_proj": 2 * ALPHA}


def test_equal_scales_leave_the_tensors_bit_for_bit(bases: Bases, tmp_path: Path) -> None:
    base = bases("qwen3_moe")
    write_adapter(tmp_path / "mine", base, "qwen3_moe", CASES["rslora"])
    mine = load_file(tmp_path / "mine" / "adapter_model.safetensors")
    values = {tuple(row.tolist()) for key, tensor in mine.items() if ".lora_A." in key for row in tensor}
    fused = load_file(imported(tmp_path / "mine") / "adapter_model.safetensors")
    assert {tuple(row.tolist()) for key, tensor in fused.items() if ".lora_A." in key for row in tensor} == values


def test_more_experts_than_the_base_has_are_refused_by_name(bases: Bases, tmp_path: Path) -> None:
    base = bases("qwen3_moe")
    write_adapter(tmp_path / "mine", base, "qwen3_moe", CASES["plain"])
    path = tmp_path / "mine" / "adapter_model.safetensors"
    tensors = load_file(path)
    more = {key.replace(".experts.0.", ".experts.99."): tensor.clone() for key, tensor in tensors.items() if ".experts.0." in key}
    save_file({**tensors, **more}, path)
    with pytest.raises(InputError, match=r"on expert 99 of model\.layers"):
        imported(tmp_path / "mine")


def test_router_and_attention_beside_the_experts_keep_their_own(bases: Bases, tmp_path: Path) -> None:
    base = bases("qwen3_moe")
    case = Case(
        {"rank_pattern": {"gate": 1}, "alpha_pattern": {"q_proj": 10, "gate": 4, r"experts\.0\.\w+": 2}},
        lambda expert, _: (R, 2 if expert == 0 else ALPHA),
    )
    case.settings["target_modules"] = ["q_proj", "gate", "gate_proj", "up_proj", "down_proj"]
    write_adapter(tmp_path / "mine", base, "qwen3_moe", case)
    path = tmp_path / "mine" / "adapter_model.safetensors"
    model = AutoModelForCausalLM.from_pretrained(base)
    layers = [f"model.layers.{number}" for number in range(model.config.num_hidden_layers)]
    pairs = {f"{layer}.self_attn.q_proj": (R, 10) for layer in layers} | {f"{layer}.mlp.gate": (1, 4) for layer in layers}
    tensors, wanted = load_file(path), {}
    for name, (r, alpha) in pairs.items():
        rows, columns = model.get_submodule(name).weight.shape
        a, b = 0.2 * torch.randn(r, columns), 0.2 * torch.randn(rows, r)
        tensors[f"base_model.model.{name}.lora_A.weight"], tensors[f"base_model.model.{name}.lora_B.weight"] = a, b
        wanted[name] = alpha / r * b @ a
    save_file(tensors, path)
    after = with_adapter(base, imported(tmp_path / "mine")).merge_and_unload()
    for name, update in wanted.items():
        assert (after.get_submodule(name).weight - model.get_submodule(name).weight - update).abs().max() < 2e-6, name
