"""Adapters made from adapters: every method against dense sums in float64, and loaded again by plain peft."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor
from transformers import AutoModelForCausalLM

from lora_studio.adapters.deltas import Delta
from lora_studio.adapters.write_adapter import write_adapter
from lora_studio.core.control import TaskContext
from lora_studio.core.errors import InputError, StudioError
from lora_studio.export.arithmetic import tasks
from tests.export.adapters import logits, make_adapter, targets_of, with_adapter
from tests.tiny import save_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True, "r": 6},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 32}},
    "more": {"target_modules": ["q_proj", "down_proj", "embed_tokens"]},
}


def done(work: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    last: Any = list(work(TaskContext(), **arguments))[-1]
    return last.result


def updates(base: Path, adapter: Path) -> dict[str, Tensor]:
    """Return every update as PEFT makes it, by module."""
    model = with_adapter(base, adapter)
    return {
        name.removeprefix("base_model.model."): layer.get_delta_weight("default").double()
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }


@pytest.fixture(scope="module")
def base(tiny_model: Callable[[str], Path]) -> Path:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    made: dict[str, Path] = {}
    for seed, (name, settings) in enumerate(KINDS.items()):
        torch.manual_seed(seed)
        made[name] = make_adapter(base, root / name, **{**targets_of("llama"), **settings})
        scaled = {key: tensor * (1 + seed / 3) for key, tensor in _tensors(made[name]).items()}
        _save(made[name], scaled)
    return made


def _tensors(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def _save(folder: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    sound = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(sound, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def close(found: dict[str, Tensor], expected: dict[str, Tensor], within: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    for name, update in expected.items():
        assert (found[name] - update).norm() <= within * update.norm(), name


@pytest.mark.parametrize("kind", ["rslora", "patterns", "more"])
def test_a_concatenation_is_the_exact_weighted_sum(kind: str, base: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    sources = [str(adapters["plain"]), str(adapters[kind])]
    result = done(tasks.combine, sources=sources, to=str(tmp_path / "sum"), weights=[0.7, -1.3])
    assert result["certificate"]["verdict"] == "exact"
    one, other = (updates(base, Path(source)) for source in sources)
    expected = {name: 0.7 * one.get(name, torch.zeros(())) - 1.3 * update for name, update in other.items()}
    close(updates(base, tmp_path / "sum"), expected)


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox"])
def test_base_and_sum_answer_as_base_and_the_sum_of_updates(architecture: str, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    base = tiny_model(architecture)
    one = make_adapter(base, tmp_path / "one", **targets_of(architecture))
    other = make_adapter(base, tmp_path / "other", **targets_of(architecture), use_rslora=True)
    done(tasks.combine, sources=[str(one), str(other)], to=str(tmp_path / "sum"))
    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(one), adapter_name="one").merge_and_unload()
    expected = logits(PeftModel.from_pretrained(model, str(other)))
    assert (logits(with_adapter(base, tmp_path / "sum")) - expected).abs().max() <= 1e-4


def test_a_sum_brought_to_a_rank_is_the_nearest_of_that_rank(base: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    sources = [str(adapters["plain"]), str(adapters["rslora"])]
    result = done(tasks.combine, sources=sources, to=str(tmp_path / "sum"), method="svd", r=3)
    one, other = (updates(base, Path(source)) for source in sources)
    for name, found in updates(base, tmp_path / "sum").items():
        left, values, right = torch.linalg.svd(one[name] + other[name], full_matrices=False)
        nearest = left[:, :3] * values[:3] @ right[:3]
        assert (found - nearest).norm() <= 1e-5 * nearest.norm()
    certificate = result["certificate"]
    assert certificate["verdict"] == "approximate"
    assert certificate["relative_error"] == pytest.approx(certificate["least_possible_error"], rel=1e-3)


def test_ties_trims_elects_and_averages(base: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    sources = [str(adapters["plain"]), str(adapters["rslora"])]
    done(tasks.combine, sources=sources, to=str(tmp_path / "ties"), method="ties", density=0.3, r=32)
    one, other = (updates(base, Path(source)) for source in sources)
    for name, found in updates(base, tmp_path / "ties").items():
        kept = []
        for update in (one[name], other[name]):
            least = update.abs().flatten().kthvalue(update.numel() - round(0.3 * update.numel()) + 1).values
            kept.append(torch.where(update.abs() >= least, update, 0.0))
        sign = (kept[0] + kept[1]).sign()
        agreeing = [torch.where(update.sign() == sign, update, 0.0) for update in kept]
        count = sum((update != 0).double() for update in agreeing)
        expected = (agreeing[0] + agreeing[1]) / torch.as_tensor(count).clamp_min(1)
        assert (found - expected).norm() <= 1e-5 * expected.norm(), name


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_dare_drops_a_share_and_is_the_same_for_a_seed(method: str, base: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    sources = [str(adapters["plain"]), str(adapters["rslora"])]
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        done(tasks.combine, sources=sources, to=str(tmp_path / name), method=method, density=0.5, seed=seed, r=32)
    one, again, other = (updates(base, tmp_path / name) for name in ("one", "again", "other"))
    close(one, again)
    assert any((one[name] - other[name]).norm() > 0.1 * one[name].norm() for name in one)
    if method == "dare_linear":
        sums = [updates(base, Path(source)) for source in sources]
        whole = sum(float((one[name] * (sums[0][name] + sums[1][name])).sum()) for name in one)
        size = sum(float((sums[0][name] + sums[1][name]).square().sum()) for name in one)
        assert whole / size == pytest.approx(1.0, abs=0.2)  # what is dropped is made up for


def test_cutting_keeps_the_energy_asked_for_at_the_smallest_rank(base: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    result = done(tasks.cut, source=str(adapters["rslora"]), to=str(tmp_path / "cut"), energy=0.8)
    whole, found = updates(base, adapters["rslora"]), updates(base, tmp_path / "cut")
    for name, update in whole.items():
        r = result["certificate"]["spectra"][name]["r"]
        values = torch.linalg.svdvals(update).square()
        assert float(values[:r].sum() / values.sum()) >= 0.8 > float(values[: r - 1].sum() / values.sum())
        assert float((found[name] - update).square().sum() / values.sum()) <= 0.2 + 1e-6
    done(tasks.cut, source=str(adapters["plain"]), to=str(tmp_path / "rank"), r=2)
    assert all(torch.linalg.matrix_rank(update.float(), rtol=1e-4) == 2 for update in updates(base, tmp_path / "rank").values())


def test_half_the_strength_is_half_the_update(base: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    assert done(tasks.scale, source=str(adapters["patterns"]), to=str(tmp_path / "half"), by=0.5)["certificate"]["verdict"] == "exact"
    close(updates(base, tmp_path / "half"), {name: 0.5 * update for name, update in updates(base, adapters["patterns"]).items()})


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_what_a_tuned_model_changed_is_taken_out_of_it(architecture: str, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    base = tiny_model(architecture)
    adapter = make_adapter(base, tmp_path / "adapter", **targets_of(architecture))
    tuned: Any = with_adapter(base, adapter).merge_and_unload()
    norms = [parameter for name, parameter in tuned.named_parameters() if "norm" in name or "ln_" in name]
    with torch.no_grad():
        norms[0].add_(0.1)
    tuned.save_pretrained(tmp_path / "tuned")
    for path in base.glob("*token*"):
        shutil.copy(path, tmp_path / "tuned")
    result = done(tasks.extract, base=str(base), tuned=str(tmp_path / "tuned"), to=str(tmp_path / "taken"), r=4)
    close(updates(base, tmp_path / "taken"), updates(base, adapter), within=1e-4)
    assert len(result["certificate"]["left_out"]["parameters"]) == 1
    assert json.loads((tmp_path / "taken/certificate.json").read_text())["verdict"] == "exact"  # the change has no more than this rank


def test_an_adapter_is_at_one_with_itself_and_against_its_negative(base: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    done(tasks.scale, source=str(adapters["plain"]), to=str(tmp_path / "negative"), by=-1.0)
    alike = done(tasks.compare, first=str(adapters["plain"]), second=str(adapters["plain"]))
    against = done(tasks.compare, first=str(adapters["plain"]), second=str(tmp_path / "negative"))
    for entry in alike["modules"]:
        assert (entry["cosine"], entry["sign_conflict"]) == (pytest.approx(1.0), 0.0)
        assert entry["column_overlap"] == pytest.approx(1.0)
    for entry in against["modules"]:
        assert (entry["cosine"], entry["sign_conflict"]) == (pytest.approx(-1.0), 1.0)
    assert "pull against each other" in against["verdict"]
    assert updates(base, adapters["plain"]).keys() == {entry["module"] for entry in alike["modules"]}


def test_a_comparison_agrees_with_dense_updates(base: Path, adapters: dict[str, Path]) -> None:
    found = done(tasks.compare, first=str(adapters["plain"]), second=str(adapters["more"]))
    one, other = updates(base, adapters["plain"]), updates(base, adapters["more"])
    for entry in found["modules"]:
        first, second = one[entry["module"]], other[entry["module"]]
        assert entry["cosine"] == pytest.approx(float((first * second).sum() / (first.norm() * second.norm())), abs=1e-6)
        assert entry["sign_conflict"] == pytest.approx(float((first.sign() != second.sign()).double().mean()), abs=1e-3)
    assert found["only_in_one"] == ["model.embed_tokens"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"use_dora": True}, "is a DoRA"),
        ({"modules_to_save": ["lm_head"]}, "trained lm_head"),
        ({"lora_bias": True}, "biases of B"),
        ({"trainable_token_indices": [3]}, "trained model.embed_tokens itself"),
    ],
)
def test_what_is_more_than_updates_is_refused(
    settings: dict[str, Any], told: str, base: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    other = make_adapter(base, tmp_path / "other", **targets_of("llama"), **settings)
    with pytest.raises(InputError, match=told):
        done(tasks.combine, sources=[str(adapters["plain"]), str(other)], to=str(tmp_path / "sum"))
    assert not (tmp_path / "sum").exists()


def test_adapters_of_other_bases_are_refused(adapters: dict[str, Path], tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "wide", "llama", hidden_size=64)
    other = make_adapter(base, tmp_path / "other", **targets_of("llama"))
    with pytest.raises(InputError, match="Combine adapters of one base") as error:
        done(tasks.combine, sources=[str(adapters["plain"]), str(other)], to=str(tmp_path / "sum"))
    assert "wide" in error.value.message


@pytest.mark.parametrize("method", ["cat", "svd"])
def test_a_wrong_result_fails_and_is_kept_under_a_name_that_says_so(
    method: str, adapters: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(folder: Path, config: Any, deltas: Any, carried: Any) -> None:
        write_adapter(folder, config, {name: delta.times(1.01) for name, delta in deltas.items()})

    monkeypatch.setattr(tasks, "write_adapter", spoiled)
    sources = [str(adapters["plain"]), str(adapters["rslora"])]
    with pytest.raises(StudioError, match="did not pass"):
        done(tasks.combine, sources=sources, to=str(tmp_path / "exports/sum"), method=method)
    assert [path.name for path in (tmp_path / "exports").iterdir()] == ["sum-failed"]


@pytest.mark.parametrize("nearness", [0.0, 1e-5])
def test_a_right_difference_of_adapters_that_nearly_cancel_passes(nearness: float, adapters: dict[str, Path], tmp_path: Path) -> None:
    """What is meant is then a millionth of what was rounded: its own size is no measure of rounding."""
    done(tasks.scale, source=str(adapters["plain"]), to=str(tmp_path / "like"), by=1 + nearness)
    certificate = done(
        tasks.combine,
        sources=[str(tmp_path / "like"), str(adapters["plain"])],
        to=str(tmp_path / "difference"),
        weights=[0.3, -0.3],
    )["certificate"]
    assert (certificate["passed"], certificate["verdict"]) == (True, "exact")
    assert certificate["relative_error"] > 1e-6 or not nearness  # a limit of 1e-6 failed it


@pytest.mark.parametrize("method", ["cat", "svd"])
def test_one_wrong_element_of_one_factor_fails(
    method: str, adapters: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(folder: Path, config: Any, deltas: Any, carried: Any) -> None:
        name, delta = next(iter(deltas.items()))
        b = delta.b.clone()
        b[3, 1] += 0.05 * b.abs().max()
        write_adapter(folder, config, {**deltas, name: Delta(b, delta.a, delta.embedding)})

    monkeypatch.setattr(tasks, "write_adapter", spoiled)
    with pytest.raises(StudioError, match="did not pass"):
        done(tasks.combine, sources=[str(adapters["plain"]), str(adapters["rslora"])], to=str(tmp_path / "sum"), method=method)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"method": "mean"}, "called 'mean'"),
        ({"weights": [1.0]}, "1 weights for 2 adapters"),
        ({"r": 0}, "rank of 0"),
        ({"method": "ties", "density": 0.0}, "density of 0"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(
    arguments: dict[str, Any], told: str, adapters: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=told):
        done(tasks.combine, sources=[str(adapters["plain"]), str(adapters["rslora"])], to=str(tmp_path / "sum"), **arguments)
