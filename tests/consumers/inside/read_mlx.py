"""Runs in a reader's environment: mlx-lm, on the processor, of merged folders and of adapters in its own format over their base."""

from importlib.metadata import version
from typing import Any

from common import compared, main  # type: ignore[import-not-found]


def versions() -> dict:
    return {"mlx-lm": version("mlx-lm"), "mlx": version("mlx")}


def merged(subject: dict) -> dict:
    found, tokenizer = _read(subject, subject["merged"])
    return {**found, "tokenizer": tokenizer.encode(subject["text"], add_special_tokens=True) == subject["text_ids"]}


def adapter(subject: dict) -> dict:
    if not subject["mlx"]:
        return {"ran": False, "error": subject["mlx_refused"]}
    return _read(subject, subject["base"], adapter_path=subject["mlx"])[0]


def _read(subject: dict, *folder: str, **named: str) -> tuple[dict, Any]:
    import mlx.core as mx
    import numpy
    from mlx_lm import load

    mx.set_default_device(mx.cpu)
    model, tokenizer = load(*folder, **named)
    model.set_dtype(mx.float32)  # the starter's base is stored in fewer bits, and is computed in them otherwise
    found = numpy.array(model(mx.array([subject["ids"]]))[0].astype(mx.float32))
    return compared(subject, found), tokenizer


main({"merged": merged, "adapter": adapter}, versions)
