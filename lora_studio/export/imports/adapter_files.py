"""The files of an adapter, taken out of a folder or an archive: only those an adapter has, from where its config lies. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lora_studio.core.errors import InputError
from lora_studio.export.imports.archive import ELSEWHERE, Entry, copy_entry, open_container
from lora_studio.export.imports.litgpt_format import LITGPT_MODEL, LITGPT_SETTINGS, LITGPT_WEIGHTS
from lora_studio.export.mlx.format import MLX_WEIGHTS
from lora_studio.inference.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS

TAKEN = {
    ADAPTER_CONFIG: 1_000_000,
    ADAPTER_WEIGHTS: 1 << 40,
    MLX_WEIGHTS: 1 << 40,
    LITGPT_WEIGHTS: 1 << 40,
    LITGPT_SETTINGS: 1_000_000,
    LITGPT_MODEL: 1_000_000,
    "tokenizer.json": 200_000_000,
    "tokenizer_config.json": 20_000_000,
    "special_tokens_map.json": 1_000_000,
    "added_tokens.json": 20_000_000,
    "vocab.json": 50_000_000,
    "merges.txt": 50_000_000,
    "vocab.txt": 50_000_000,
    "tokenizer.model": 50_000_000,
    "spiece.model": 50_000_000,
    "sentencepiece.bpe.model": 50_000_000,
    "tekken.json": 50_000_000,
    "chat_template.jinja": 1_000_000,
    "README.md": 1_000_000,
}
"""Files of an adapter that are taken, each with the most bytes it may have."""


def take_adapter(path: Path, into: Path, look: Callable[[], None] = lambda: None) -> list[str]:
    """Copy an adapter's files into a folder, and name the files beside them that were left.

    Args:
        path: A folder, a zip or a tar that holds one adapter, at its top or in a folder of its own.
        into: An empty folder.
        look: Called between blocks; may raise to end it.

    Raises:
        InputError: There is no adapter, or more than one; its weights are pickled; the archive is damaged, encrypted or hostile.
    """
    with open_container(path) as container:
        entries = list(container.entries())
        home = _home_of_adapter(path, entries)
        beside = [entry for entry in entries if entry.place == home]
        _refuse_no_weights(path, {entry.name for entry in beside})
        others = _of_others({entry.name for entry in beside})
        chosen = [entry for entry in beside if entry.name in TAKEN and entry.name not in others]
        for entry in chosen:
            if entry.size > TAKEN[entry.name]:
                raise InputError(f"{path}: {entry.name} claims {entry.size:,} bytes, more than such a file has.", ELSEWHERE, "path")
        for entry in chosen:
            copy_entry(container, entry, into / entry.name, look)
    return sorted(entry.name for entry in beside if entry not in chosen)


def _home_of_adapter(path: Path, entries: list[Entry]) -> str:
    marks = (ADAPTER_CONFIG,) if any(entry.name == ADAPTER_CONFIG for entry in entries) else (LITGPT_WEIGHTS,)
    homes = sorted({entry.place for entry in entries if entry.name in marks}, key=lambda place: (place.count("/"), place))
    if not homes:
        hint = _what_it_is({entry.name for entry in entries})
        raise InputError(f"{path} holds no PEFT adapter: it has no {ADAPTER_CONFIG}.", hint, "path")
    depth = homes[0].count("/")
    if len(homes) > 1 and homes[1].count("/") == depth and homes[0]:
        names = ", ".join(homes[:3])
        raise InputError(f"{path} holds {len(homes)} adapters ({names}…).", "Give the folder of one of them.", "path")
    return homes[0]


def _of_others(names: set[str]) -> set[str]:
    """Name the files of other programs that are not wanted, since what another one wrote lies there too."""
    litgpt = {LITGPT_WEIGHTS, LITGPT_SETTINGS, LITGPT_MODEL}
    if ADAPTER_WEIGHTS in names:
        return {MLX_WEIGHTS, *litgpt}
    return litgpt if MLX_WEIGHTS in names else set()


def _what_it_is(names: set[str]) -> str:
    """Say what a folder without PEFT's settings holds instead, which program wrote it, and the way out."""
    if MLX_WEIGHTS in names:
        return f"It looks like an adapter of mlx-lm without its settings: give its {ADAPTER_CONFIG} too."
    if any(name.endswith(".pth.lora") for name in names):
        return f"It was written by litgpt: give its folder, with {LITGPT_WEIGHTS}, {LITGPT_SETTINGS} and {LITGPT_MODEL}."
    if "adapter_model.pt" in names or any(name.startswith("adapter_") and name.endswith(".pt") for name in names):
        return (
            "It was written by torchtune, as a pickle: save it there with FullModelHFCheckpointer and safe_serialization, which writes "
            "PEFT's files, or take its adapter out of the merged model: lora-studio adapter extract."
        )
    if any(name.endswith(".gguf") for name in names):
        return "A GGUF adapter cannot be turned back: give the PEFT adapter it was made from."
    if "pytorch_lora_weights.safetensors" in names:
        return "It was written by diffusers, for a model of images: such adapters are not for language models."
    return "Give a folder that PEFT, mlx-lm or litgpt saved an adapter in, or a zip of it."


def _refuse_no_weights(path: Path, names: set[str]) -> None:
    if names & {ADAPTER_WEIGHTS, MLX_WEIGHTS, LITGPT_WEIGHTS}:
        return
    pickled = sorted(name for name in names if name.startswith("adapter_model.") and not name.endswith(".safetensors"))
    if pickled:
        by = "torchtune writes it so unless safe_serialization is on. " if "adapter_model.pt" in pickled else ""
        raise InputError(
            f"{path} holds its weights as a pickle ({pickled[0]}), which can run code when read.",
            f"{by}Ask its maker for safetensors; or, where you trust it, load and save it with PEFT: model.save_pretrained(folder).",
            "path",
        )
    raise InputError(f"{path} has no {ADAPTER_WEIGHTS}.", "Give the whole adapter.", "path")
