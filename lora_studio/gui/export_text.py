"""What an export says: how large it will be, what its certificate means, the lines that load it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lora_studio.core.config import RunConfig
from lora_studio.core.files import bytes_below
from lora_studio.core.runs import RunFolder
from lora_studio.export.request import BYTES_OF_DTYPE
from lora_studio.gui.text import tr
from lora_studio.models.quantization import NONE, SAID

ExportKind = Literal["adapter", "merged"]


@dataclass(frozen=True)
class Certificate:
    """What the comparison of an export, loaded again, with base + adapter found; see `export --json`."""

    rows: int
    max_abs_logit_difference: float | None
    top1_agreement: float | None
    effect_lost: float | None
    passed: bool
    base_quantization: str = NONE

    @classmethod
    def from_result(cls, result: Mapping[str, Any]) -> Certificate:
        """Read it out of an export's result."""
        raw: Mapping[str, Any] = result["certificate"]
        figures = (raw.get(name) for name in ("max_abs_logit_difference", "top1_agreement", "effect_lost"))
        return cls(int(raw["rows"]), *figures, passed=bool(raw["passed"]), base_quantization=str(result.get("base_quantization", NONE)))


@dataclass(frozen=True)
class ExportSource:
    """A set of adapter weights of a run: its final adapter or a checkpoint."""

    title: str
    path: Path


def sources_of(folder: RunFolder) -> list[ExportSource]:
    """List what a run can export, the final adapter first, then checkpoints from the newest."""
    found: list[ExportSource] = []
    if (folder.adapter_path / "adapter_config.json").is_file():
        found.append(ExportSource(tr("final adapter"), folder.path))
    for checkpoint in reversed(list(folder.checkpoints)):
        found.append(ExportSource(tr("checkpoint {name}", name=checkpoint.name), checkpoint))
    return found


def adapter_bytes(folder: RunFolder, source: ExportSource) -> int:
    """Size of the adapter's weights, in bytes."""
    weights = folder.adapter_path if source.path == folder.path else source.path
    file = weights / "adapter_model.safetensors"
    return file.stat().st_size if file.is_file() else bytes_below(weights)


def merged_bytes(parameters: int, dtype: str, stored_dtype: str) -> int:
    """Size of a merged model's weights, in bytes: `parameters` of the base, each as `dtype`, or where `keep` as stored.

    A dtype that is not written, such as float64, becomes float32.
    """
    return parameters * BYTES_OF_DTYPE.get(stored_dtype if dtype == "keep" else dtype, BYTES_OF_DTYPE["float32"])


def certificate_in_words(certificate: Certificate, dtype: str) -> str:
    """Say what a certificate found, the verdict first."""
    parts: list[str] = []
    if certificate.max_abs_logit_difference is not None:
        difference = certificate.max_abs_logit_difference
        parts.append(tr("largest logit difference {value:.2g} over {rows} held-out rows", value=difference, rows=certificate.rows))
    if certificate.top1_agreement is not None:
        parts.append(tr("the likeliest token agrees on {share:.1%}", share=certificate.top1_agreement))
    if certificate.effect_lost:
        parts.append(tr("rounding to {dtype} cost {share:.1%} of the adapter's effect", dtype=dtype, share=certificate.effect_lost))
    held = SAID[certificate.base_quantization]
    if held:
        parts.append(tr("compared in full precision, while the adapter was trained on a base in {held}", held=held))
    verdict = tr("Passed") if certificate.passed else tr("Did not pass")
    return f"{verdict}: {'; '.join(parts)}." if parts else f"{verdict}."


def loading_lines(kind: ExportKind, path: Path, config: RunConfig) -> str:
    """Give the Python lines that load an export without the studio."""
    if kind == "merged":
        return (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f"model = AutoModelForCausalLM.from_pretrained({str(path)!r})\n"
            f"tokenizer = AutoTokenizer.from_pretrained({str(path)!r})\n"
        )
    base = config.model.name_or_path
    revision = f", revision={config.model.revision!r}" if config.model.revision else ""
    return (
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"base = AutoModelForCausalLM.from_pretrained({base!r}{revision})\n"
        f"model = PeftModel.from_pretrained(base, {str(path)!r})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({base!r}{revision})\n"
    )


def suggested_folder(folder: RunFolder, kind: ExportKind, source: ExportSource, dtype: str) -> Path:
    """Suggest a destination below the run's own `exports`, named by what it is."""
    step = "" if source.path == folder.path else f"-{source.path.name}"
    kept = "" if dtype == "keep" else f"-{dtype}"
    return folder.path / "exports" / (f"merged{kept}{step}" if kind == "merged" else f"adapter{step}")
