"""Runs in a reader's environment: mlx-lm, on the processor."""

from importlib.metadata import version

from common import compared, main  # type: ignore[import-not-found]


def versions() -> dict:
    return {"mlx-lm": version("mlx-lm"), "mlx": version("mlx")}


def merged(subject: dict) -> dict:
    import mlx.core as mx
    import numpy
    from mlx_lm import load

    mx.set_default_device(mx.cpu)
    model, tokenizer = load(subject["merged"])
    found = numpy.array(model(mx.array([subject["ids"]]))[0].astype(mx.float32))
    return {**compared(subject, found), "tokenizer": tokenizer.encode(subject["text"], add_special_tokens=True) == subject["text_ids"]}


main({"merged": merged}, versions)
