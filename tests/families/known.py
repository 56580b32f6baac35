"""What falls short today, by family and check, and why: named in the table, and no news to the tests."""

from __future__ import annotations

from collections.abc import Iterable


def _all(why: str, *checks: str) -> dict[str, str]:
    return dict.fromkeys(checks, why)


def _of(families: Iterable[str], why: str, *checks: str) -> dict[str, dict[str, str]]:
    return {family: _all(why, *checks) for family in families}


KNOWN: dict[str, dict[str, str]] = {
    "blt": _all("its default patcher has a hundred million parameters whatever the sizes", "config"),
    "dots3_note": _all("its default config is not consistent once its sizes are smaller", "config"),
    "gemma3n": _all("needs pillow and timm", "config"),
    **_of(("musicgen", "musicgen_melody"), "has no default config of its own", "config"),
    **_of(("emu3", "mllama"), "transformers saves its text part as a family of which it loads no causal model", "config", "inspect"),
    **_of(("gemma4_assistant", "gemma4_unified_assistant"), "wants hidden states of another model, not text", "config", "rows", "steps"),
    "reformer": _all("transformers trains it on rows of a multiple of its chunks alone", "rows", "steps"),
    **_of(("apertus", "apertus1p5_text"), "its activation has parameters without a dimension, that our merge does not go over", "merged"),
    "laguna": _all("its shared experts' names on disk are not found again: the certificate refuses the file", "merged"),
    **_of(("inkling2_text", "inkling2_loop_text"),
          "convolutions of its last layer are not found again on disk: the certificate refuses the file", "merged"),
}
"""Check by check; `config` where a family is not tried in CI, having no tiny model that could be."""
