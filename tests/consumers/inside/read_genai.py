"""Runs in a reader's environment: onnxruntime-genai's model builder, and its generator, which gives the last position's logits alone."""

import subprocess
import sys
import tempfile
from importlib.metadata import version

from common import compared, main  # type: ignore[import-not-found]


def versions() -> dict:
    return {"onnxruntime-genai": version("onnxruntime-genai"), "transformers": version("transformers")}


def merged(subject: dict) -> dict:
    import numpy
    import onnxruntime_genai as og

    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
        build = ["-m", "onnxruntime_genai.models.builder", "-i", subject["merged"], "-o", folder, "-p", "fp32", "-e", "cpu", "-c", cache]
        built = subprocess.run([sys.executable, *build], capture_output=True, text=True, check=False)
        if built.returncode:
            raise RuntimeError(built.stderr.strip().splitlines()[-1])
        model = og.Model(folder)
        settings = og.GeneratorParams(model)
        settings.set_search_options(max_length=len(subject["ids"]) + 4)
        generator = og.Generator(model, settings)
        generator.append_tokens(numpy.array([subject["ids"]], dtype=numpy.int32))
        last = numpy.array(generator.get_logits()).reshape(1, -1)
        return compared(subject, last, slice(-1, None))


main({"merged": merged}, versions)
