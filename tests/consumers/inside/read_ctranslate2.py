"""Runs in a reader's environment: ctranslate2's converter for transformers, and its generator."""

import tempfile
from importlib.metadata import version

from common import compared, main  # type: ignore[import-not-found]


def versions() -> dict:
    return {"ctranslate2": version("ctranslate2"), "transformers": version("transformers")}


def merged(subject: dict) -> dict:
    import ctranslate2
    import numpy
    from ctranslate2.converters import TransformersConverter

    with tempfile.TemporaryDirectory() as folder:
        TransformersConverter(subject["merged"], load_as_float16=False).convert(folder, force=True)
        generator = ctranslate2.Generator(folder, device="cpu", compute_type="float32")
        found = generator.forward_batch([subject["ids"]], return_log_probs=False)
        return compared(subject, numpy.array(found)[0])


main({"merged": merged}, versions)
