"""Runs in a reader's environment: lm_eval's Hugging Face model, its log-likelihood of a continuation, merged and with `peft=`."""

from importlib.metadata import version

import numpy
from common import main  # type: ignore[import-not-found]


def versions() -> dict:
    return {"lm_eval": version("lm_eval"), "transformers": version("transformers"), "peft": version("peft")}


def merged(subject: dict) -> dict:
    return _likelihood(subject, pretrained=subject["merged"])


def adapter(subject: dict) -> dict:
    return _likelihood(subject, pretrained=subject["base"], peft=subject["adapter"])


def _likelihood(subject: dict, **named: str) -> dict:
    from lm_eval.models.huggingface import HFLM

    ids = subject["ids"]
    model = HFLM(device="cpu", dtype="float32", batch_size=1, **named)
    ((found, greedy),) = model._loglikelihood_tokens([(("", ""), ids[:-4], ids[-4:])], disable_tqdm=True)
    logits = numpy.load(subject["reference"]).astype("float64")[-5:-1]
    shifted = logits - logits.max(1, keepdims=True)
    meant = (shifted - numpy.log(numpy.exp(shifted).sum(1, keepdims=True)))[range(4), ids[-4:]].sum()
    agrees = greedy == bool((logits.argmax(1) == numpy.array(ids[-4:])).all())
    return {"difference": abs(float(found) - float(meant)), "top1": float(agrees)}


main({"merged": merged, "adapter": adapter}, versions)
