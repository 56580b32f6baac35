"""What is exported and read again: the starter and tiny random models, each with an adapter that changes it, through our own export."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.consumers import say

_TEXT = "Dear support,\n\nmy parcel no. 12345 never arrived; the link has expired. <|im_end|>"
_MESSAGES = [{"role": "user", "content": "How do I reset my password?"}]
_POSITIONS = 40
_SHAPE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
_SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gpt_neox": {"hidden_size": 64, "intermediate_size": 256},
    "phi3": {"hidden_size": 128, "intermediate_size": 96},
    "qwen3_moe": {**_SHAPE, "norm_topk_prob": True},  # as published ones have it: llama.cpp knows no other
    "gemma3": {
        **_SHAPE,
        "num_hidden_layers": 6,
        "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
    },
}
_PARTS = [1.0] * 8, [2.0] * 8
# Name: architecture, what of its rotary settings is no default, and the changes that make it so. Thetas are nobody's default.
TINY: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("llama", "", {"rope_parameters": {"rope_type": "default", "rope_theta": 70000.0}}),
    "llama, llama3 scaling": (
        "llama",
        "llama3",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            }
        },
    ),
    "llama, llama3 scaling of 64 tokens": (
        "llama",
        "llama3 of another length",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 70000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "mistral": ("mistral", "", {"rope_parameters": {"rope_type": "default", "rope_theta": 70000.0}}),
    "qwen3": ("qwen3", "", {"rope_parameters": {"rope_type": "default", "rope_theta": 70000.0}}),
    "qwen3, yarn": (
        "qwen3",
        "yarn",
        {
            "max_position_embeddings": 16384,
            "rope_parameters": {"rope_type": "yarn", "rope_theta": 70000.0, "factor": 4.0, "original_max_position_embeddings": 4096},
        },
    ),
    "gemma3": (
        "gemma3",
        "",
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 300000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
            }
        },
    ),
    "gemma3, linear scaling": (
        "gemma3",
        "linear",
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 300000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
            }
        },
    ),
    "phi3": ("phi3", "", {"rope_parameters": {"rope_type": "default", "rope_theta": 70000.0}}),
    "phi3, partial rotation": (
        "phi3",
        "partial",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 70000.0, "partial_rotary_factor": 0.5}},
    ),
    "phi3, longrope": (
        "phi3",
        "longrope",
        {
            "original_max_position_embeddings": 128,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 70000.0,
                "partial_rotary_factor": 0.5,
                "short_factor": _PARTS[0],
                "long_factor": _PARTS[1],
            },
        },
    ),
    "gpt_neox": ("gpt_neox", "", {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}),
    "gpt_neox, another theta": (
        "gpt_neox",
        "another theta",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 70000.0, "partial_rotary_factor": 0.5}},
    ),
    "qwen3_moe": ("qwen3_moe", "", {"rope_parameters": {"rope_type": "default", "rope_theta": 70000.0}}),
    "qwen3_moe, experts adapted": ("qwen3_moe", "", {"rope_parameters": {"rope_type": "default", "rope_theta": 70000.0}}),
    "gpt2": ("gpt2", "", {}),
}


@dataclass
class Subject:
    """One model with its adapter, as the readers are told of it.

    Attributes:
        name: What the table calls it.
        family: `model_type`.
        rotary: What its rotary settings have beyond the plain; empty for nothing.
        experts: Whether the adapter is on fused experts too.
        base: The base's folder as our conversions write it: weights, and settings in both spellings.
        merged: Our merged export.
        adapter: Our adapter export.
        mlx: Our adapter export for mlx-lm; empty where it was refused, and then `mlx_refused` says why.
        reference: Logits of base + adapter in plain PEFT, positions × vocabulary, as a NumPy file.
        ids: The tokens that they are of.
        text: A text, and `text_ids` what it is to its tokenizer.
        messages: Turns, and `chat` what its chat template makes of them.
        eos_token: Its end token.
    """

    name: str
    family: str
    rotary: str
    experts: bool
    base: str
    merged: str = ""
    adapter: str = ""
    mlx: str = ""
    mlx_refused: str = ""
    reference: str = ""
    ids: list[int] | None = None
    text: str = _TEXT
    text_ids: list[int] | None = None
    messages: list[dict[str, str]] | None = None
    chat: str = ""
    eos_token: str = ""

    def told(self) -> dict[str, Any]:
        """Return what the program has to know of it to say for which exports it stands."""
        return {"name": self.name, "family": self.family, "rotary": self.rotary, "experts": self.experts}


def shape_of(architecture: str) -> dict[str, Any]:
    """Return the sizes of a tiny model: heads as wide as the readers' kernels want them."""
    return _SHAPES.get(architecture, _SHAPE)


def make_subjects(folder: Path, names: list[str]) -> list[Subject]:
    """Make bases and adapters in a folder, export them, and compute what they answer; tell of it as it goes."""
    made: list[Subject] = []
    for subject in _bases(folder, names):
        say(f"exporting {subject.name}")
        _fill(subject, folder / subject.name.replace(", ", "-").replace(" ", "-"))
        made.append(subject)
    (folder / "subjects.json").write_text(json.dumps([asdict(subject) for subject in made], indent=1), encoding="utf-8")
    return made


def _bases(folder: Path, names: list[str]) -> Iterator[Subject]:
    from transformers import AutoTokenizer

    from lora_studio.core.control import TaskContext
    from lora_studio.models.prepare import prepare
    from tests.tiny import save_tiny_model

    *_, last = prepare(TaskContext(), "starter")
    starter = Path(last.result["path"])
    tokenizer = AutoTokenizer.from_pretrained(starter)  # llama.cpp knows tokenizers by name, and would not know one of our own
    if not names or "starter" in names:
        yield Subject("starter", "llama", "", experts=False, base=str(starter))
    for name, (architecture, rotary, changes) in TINY.items():
        if not names or name in names:
            base = folder / "bases" / name.replace(", ", "-").replace(" ", "-")
            ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
            shape = {**shape_of(architecture), "vocab_size": len(tokenizer), **ids}
            save_tiny_model(base, architecture, **{**shape, **changes})
            tokenizer.save_pretrained(base)
            if architecture == "gpt2":
                _name_as_on_the_hub(base)
            family = json.loads((base / "config.json").read_text(encoding="utf-8"))["model_type"]
            yield Subject(name, family, rotary, experts="experts" in name, base=str(base))


def _name_as_on_the_hub(base: Path) -> None:
    """Return GPT-2's weights the names that its published files have; transformers reads both."""
    from safetensors.torch import load_file, save_file

    file = base / "model.safetensors"
    save_file({name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})


def _fill(subject: Subject, folder: Path) -> None:
    """Export an adapter and its merge, and keep what base + adapter answers in plain PEFT."""
    import numpy
    import torch
    from transformers import AutoTokenizer

    from lora_studio.models.spellings import mend_folder
    from tests.export.adapters import make_adapter, run_export, targets_of, with_adapter

    base = Path(subject.base)
    architecture = subject.family.removesuffix("_text")
    targets = targets_of(architecture)
    if not subject.experts:
        targets.pop("target_parameters", None)
    source = make_adapter(base, folder / "source", **targets)
    _soften(source, 0.05 if subject.name == "starter" else 1.0)
    for kind in ("merged", "adapter"):
        run_export(source=str(source), kind=kind, to=str(folder / kind), dtype="float32" if kind == "merged" else None, check="tensors")
    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = (tokenizer(_TEXT + " The invoice shows the wrong address; please send a corrected one. " * 3).input_ids)[:_POSITIONS]
    with torch.inference_mode():
        logits = with_adapter(base, source).float().eval()(input_ids=torch.tensor([ids])).logits[0]
    numpy.save(folder / "reference.npy", logits.numpy())
    subject.merged, subject.adapter, subject.reference = str(folder / "merged"), str(folder / "adapter"), str(folder / "reference.npy")
    subject.ids, subject.text_ids, subject.messages = ids, tokenizer(_TEXT).input_ids, _MESSAGES
    subject.chat = tokenizer.apply_chat_template(_MESSAGES, add_generation_prompt=True, tokenize=False)
    subject.eos_token = tokenizer.eos_token
    _fill_mlx(subject, source, folder / "mlx")
    if subject.name != "starter":  # what is converted here has both spellings; a folder of transformers 5 is not of our writing
        spelled = shutil.copytree(base, folder / "base")
        mend_folder(spelled)
        subject.base = str(spelled)


def _fill_mlx(subject: Subject, source: Path, folder: Path) -> None:
    from lora_studio.core.errors import InputError
    from tests.export.adapters import run_export

    try:
        run_export(source=str(source), kind="mlx-adapter", to=str(folder), check="tensors")
        subject.mlx = str(folder)
    except InputError as error:
        subject.mlx_refused = error.message


def _soften(adapter: Path, factor: float) -> None:
    """Make an adapter's B smaller, so that a real model still speaks."""
    from safetensors.torch import load_file, save_file

    file = adapter / "adapter_model.safetensors"
    tensors = {name: tensor * factor if "lora_B" in name else tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def clear(folder: Path) -> None:
    """Take everything away."""
    shutil.rmtree(folder, ignore_errors=True)
