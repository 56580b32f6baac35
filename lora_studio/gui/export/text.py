"""What an export says: how large it will be, what its certificate means, the lines that load it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_studio.core.files import bytes_below
from lora_studio.core.runs import RunFolder
from lora_studio.export.request import BYTES_OF_DTYPE
from lora_studio.gui.platform.text import tr


@dataclass(frozen=True)
class ShownCertificate:
    """What the comparison of an export, loaded again, with base + adapter found; see `export --json`."""

    rows: int
    max_abs_logit_difference: float | None
    top1_agreement: float | None
    effect_lost: float | None
    passed: bool
    held_in: str = ""
    compared_with: str = ""
    grade: str = "logits"

    @classmethod
    def from_result(cls, result: Mapping[str, Any]) -> ShownCertificate:
        """Read it out of an export's result."""
        raw: Mapping[str, Any] = result["certificate"]
        figures = (raw.get(name) for name in ("max_abs_logit_difference", "top1_agreement", "effect_lost"))
        return cls(
            int(raw["rows"]),
            *figures,
            passed=bool(raw["passed"]),
            held_in=str((raw.get("trained_base") or {}).get("held_in", "")),
            compared_with=str((raw.get("trained_base") or {}).get("compared_with", "")),
            grade=str(raw.get("grade", "logits")),
        )


@dataclass(frozen=True)
class ExportSource:
    """A set of adapter weights of a run: its final adapter or a checkpoint."""

    title: str
    path: Path


def sources_of(folder: RunFolder) -> list[ExportSource]:
    """List what a run can export, the final adapter first, then checkpoints from the newest."""
    matches: list[ExportSource] = []
    if (folder.adapter_path / "adapter_config.json").is_file():
        matches.append(ExportSource(tr("final adapter"), folder.path))
    for checkpoint in reversed(list(folder.checkpoints)):
        matches.append(ExportSource(tr("checkpoint {name}", name=checkpoint.name), checkpoint))
    return matches


def weights_bytes(folder: Path) -> int:
    """Size of an adapter's weights, in bytes."""
    file = folder / "adapter_model.safetensors"
    return file.stat().st_size if file.is_file() else bytes_below(folder)


def roughly(seconds: float) -> str:
    """Say a length of time as roughly as it is known."""
    if seconds < 50:
        return tr("about {count} s", count=max(5, round(seconds / 5) * 5))
    if seconds < 3300:
        return tr("about {count} min", count=max(1, round(seconds / 60)))
    return tr("about {count:.1f} h", count=seconds / 3600)


def merged_bytes(parameters: int, dtype: str, stored_dtype: str) -> int:
    """Size of a merged model's weights, in bytes: `parameters` of the base, each as `dtype`, or where `keep` as stored.

    A dtype that is not written, such as float64, becomes float32.
    """
    return parameters * BYTES_OF_DTYPE.get(stored_dtype if dtype == "keep" else dtype, BYTES_OF_DTYPE["float32"])


def certificate_in_words(certificate: ShownCertificate, dtype: str) -> str:
    """Say what a certificate found, the verdict first."""
    parts: list[str] = []
    if certificate.grade == "tensors":
        parts.append(tr("each tensor was read again and recomputed; it was not run"))
    if certificate.max_abs_logit_difference is not None:
        difference = certificate.max_abs_logit_difference
        parts.append(tr("largest logit difference {value:.2g} over {rows} held-out rows", value=difference, rows=certificate.rows))
    if certificate.top1_agreement is not None:
        parts.append(tr("the likeliest token agrees on {share:.1%}", share=certificate.top1_agreement))
    if certificate.effect_lost:
        parts.append(tr("rounding to {dtype} cost {share:.1%} of the adapter's effect", dtype=dtype, share=certificate.effect_lost))
    if certificate.held_in:
        parts.append(tr("the adapter was trained on a base in {held}", held=certificate.held_in))
        if certificate.compared_with:
            parts.append(tr("compared on {base}", base=certificate.compared_with))
    verdict = tr("Passed") if certificate.passed else tr("Did not pass")
    return f"{verdict}: {'; '.join(parts)}." if parts else f"{verdict}."
