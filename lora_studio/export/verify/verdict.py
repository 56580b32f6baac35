"""From what was found to a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lora_studio.export.export_format import ExportFormat
from lora_studio.export.merge.original import FullPrecision
from lora_studio.export.verify.certificate import Certificate, Grade, Verdict
from lora_studio.export.verify.comparison import Comparison, LlamaComparison
from lora_studio.export.verify.reference import Compared


@dataclass(frozen=True)
class LlamaLimit:
    """How far llama.cpp may be from base + adapter before a file counts as wrong.

    It computes otherwise than we do, and on a processor rounds what goes into a product as the weights are; what is wrong with scale, rows,
    vocabulary or template is far beyond.

    Attributes:
        divergence: Mean KL divergence of a position, in nats.
        difference: Largest difference of a log-probability among the ten likeliest tokens.
    """

    divergence: float
    difference: float = float("inf")


LLAMA_LIMITS = {
    "f32": LlamaLimit(1e-3, 0.01),
    "f16": LlamaLimit(0.01),
    "bf16": LlamaLimit(0.02),
    "q8_0": LlamaLimit(0.05),
    "q6_k": LlamaLimit(0.1),
}
LLAMA_LIMIT_OF_OTHERS = LlamaLimit(0.5)


@dataclass
class VerificationResult:
    """What was found in an artefact that was read again.

    Attributes:
        kind: See `Certificate`.
        dtype: See `Certificate`.
        loaded_by: See `Certificate`.
        rounded: Whether it is written in less than float32.
        tensors: Tensors read again.
        wrong: Names of those that are not what they should be.
        update_lost: See `Certificate`.
        tokenizer_fault: What is wrong with tokenizer, template or end token; empty when nothing is.
        compared: Its logits against others, where the artefact was run.
        held_in: What the base was held in while the adapter was trained, in words; empty where in full precision.
        merged_into: Which full precision it was merged into, where there was a choice.
        compared_with: Which base base + adapter were computed on, where there was a choice.
        full_precision: What the base was quantized from, where that was found and not gone by.
        trained: How far base + adapter, as it was compared with, is from base + adapter as it was trained; for what is not run in torch.
        weights_apart: How far that one's weights are from those it was trained on, relative to them; None where they are the same.
        rows_from: See `Certificate`.
        llama: Its log-probabilities in llama.cpp against base + adapter, where it was run there.
        llama_limit: How far they may be apart.
    """

    kind: ExportFormat
    dtype: str
    loaded_by: str
    rounded: bool = False
    tensors: int = 0
    wrong: list[str] = field(default_factory=list[str])
    update_lost: float | None = None
    tokenizer_fault: str = ""
    compared: Compared | None = None
    held_in: str = ""
    merged_into: str = ""
    compared_with: str = ""
    full_precision: FullPrecision | None = None
    trained: Comparison | None = None
    weights_apart: float | None = None
    rows_from: str = ""
    llama: LlamaComparison | None = None
    llama_limit: LlamaLimit | None = None

    @property
    def fault(self) -> str:
        """Say why the artefact may not be used; empty when it may."""
        if self.compared is not None and not self.compared.expected.finite:
            return "it gives logits that are not finite, or of another shape"
        if self.wrong:
            return f"{len(self.wrong)} of its tensors are not what they should be, the first is {sorted(self.wrong)[0]}"
        if self.tokenizer_fault:
            return self.tokenizer_fault
        return (self.compared.fault if self.compared else "") or self._llama_fault

    @property
    def _llama_fault(self) -> str:
        found, limit = self.llama, self.llama_limit
        if found is None or limit is None:
            return ""
        if not found.finite:
            return "llama.cpp gives probabilities that are not finite"
        if found.split_otherwise:
            first = " ".join(found.split_otherwise[0].split())[:60]
            return f"llama.cpp splits {len(found.split_otherwise)} of {found.texts} texts into other tokens, the first is {first!r}"
        if found.kl_divergence > limit.divergence:
            apart = f"{found.kl_divergence:.2e} nats"
            return f"in llama.cpp its next tokens diverge by {apart} from base + adapter, more than {limit.divergence:g}"
        if found.largest > limit.difference:
            return f"in llama.cpp a log-probability differs by {found.largest:.2e} from base + adapter, more than {limit.difference:g}"
        return ""


def make_certificate(
    findings: VerificationResult, *, end_token: str, chat_template: str, base: Mapping[str, Any], adapter: Mapping[str, Any]
) -> Certificate:
    """Turn what was found into a certificate; its files are named when it is written."""
    fault = findings.fault
    expected, exact = (findings.compared.expected, findings.compared.exact) if findings.compared else (None, None)
    measured: Comparison | None = findings.llama or expected
    verdict: Verdict = "failed" if fault else "rounded" if findings.rounded else "exact"
    grade: Grade = "tensors" if measured is None else "logits"
    return Certificate(
        kind=findings.kind,
        dtype=findings.dtype,
        verdict=verdict,
        grade=grade,
        passed=not fault,
        reason=fault,
        loaded_by=findings.loaded_by,
        rows_from=findings.rows_from,
        update_lost=findings.update_lost,
        tensors_checked=findings.tensors - len(findings.wrong),
        end_token=end_token,
        chat_template=chat_template,
        base=base,
        adapter=adapter,
        rows=measured.rows if measured else 0,
        positions=measured.positions if measured else 0,
        max_abs_logit_difference=measured.largest if measured else None,
        exact_logit_difference=exact.largest if exact else None,
        computed_in=findings.compared.reference.precision.name if findings.compared else "",
        logit_noise=findings.compared.reference.noise.largest if findings.compared else None,
        top1_agreement=measured.agreement if measured else None,
        kl_divergence=measured.kl_divergence if measured else None,
        effect_lost=expected.effect_lost if expected else None,
        trained_base=_against_trained(findings),
    )


def _against_trained(findings: VerificationResult) -> dict[str, Any] | None:
    """Say how far the artefact is from base + adapter with the base held as it was in training; None where it was in full precision."""
    if not findings.held_in:
        return None
    told: dict[str, Any] = {"held_in": findings.held_in}
    if findings.merged_into:
        told["merged_into"] = findings.merged_into
    if findings.compared_with and (findings.compared or findings.llama):
        told["compared_with"] = findings.compared_with
    if findings.weights_apart is not None:
        told["weights_apart"] = findings.weights_apart
    if findings.full_precision is not None:
        told["full_precision"] = asdict(findings.full_precision)
    found = findings.compared.trained if findings.compared else findings.trained
    if found is not None:
        told |= {"max_abs_logit_difference": found.largest, "top1_agreement": found.agreement, "kl_divergence": found.kl_divergence}
    return told
