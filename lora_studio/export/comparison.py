"""Comparing an artefact with what it was made from: logits on held-out rows, bytes of every tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

EXACT_WITHIN = 1e-4
"""Largest logit difference at which an fp32 artefact, or a merge before it is rounded, counts as exact."""


@dataclass(frozen=True)
class Certificate:
    """What was found when an artefact was loaded again.

    Attributes:
        rows: Rows compared, each all of its positions.
        rows_from: Where they came from: "held-out rows of the run" or "general text".
        max_abs_logit_difference: Largest difference of any logit from base + adapter, both computed in fp32.
        top1_agreement: Share of positions whose likeliest token is the same, from 0 to 1.
        exact_logit_difference: The same before the weights were rounded to the dtype written; it must be within 1e-4 for any dtype.
        effect_lost: ‖written − exact‖ / ‖exact − base‖ over all changed tensors: the share of the update that rounding cost.
        tensors_checked: Tensors read again and found bit for bit as they were to be written.
        verdict: `exact` (fp32, logits within 1e-4), `rounded` (each tensor is the rounding of the exact sum), `failed`.
        passed: Whether the artefact may be used.
        reason: Why it failed, else empty.
    """

    rows: int
    rows_from: str
    max_abs_logit_difference: float
    exact_logit_difference: float
    top1_agreement: float
    effect_lost: float
    tensors_checked: int
    verdict: Literal["exact", "rounded", "failed"]
    passed: bool
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Give the certificate as JSON."""
        return asdict(self)


@dataclass
class LogitComparison:
    """Running figures over rows of logits."""

    rows: int = 0
    largest: float = 0.0
    agreeing: int = 0
    positions: int = 0
    finite: bool = True

    def add(self, expected: torch.Tensor, found: torch.Tensor) -> None:
        """Take one row in: its logits, positions × vocabulary, expected and found."""
        self.rows += 1
        self.positions += expected.shape[0]
        if expected.shape != found.shape or not bool(torch.isfinite(found).all()):
            self.finite = False
            return
        self.largest = max(self.largest, float((expected - found).abs().max()))
        self.agreeing += int((expected.argmax(-1) == found.argmax(-1)).sum())

    @property
    def fault(self) -> str:
        """Say why these are not the logits of the same function in fp32; empty when they are."""
        if not self.finite:
            return "the artefact gives logits that are not finite, or of another shape"
        if self.largest > EXACT_WITHIN:
            return f"logits differ by {self.largest:.2e} from base + adapter, more than {EXACT_WITHIN:.0e}"
        return ""

    @property
    def agreement(self) -> float:
        """Share of positions with the same likeliest token."""
        return self.agreeing / self.positions if self.positions else 0.0


def row_logits(model: Any, rows: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
    """Give each row's logits, positions × vocabulary, in fp32 on the CPU; one row at a time, without padding."""
    device = next(model.parameters()).device
    model.eval()
    for row in rows:
        with torch.inference_mode():
            input_ids = torch.tensor([list(row)], device=device)
            yield model(input_ids=input_ids, use_cache=False).logits[0].float().cpu()


def tensor_digest(tensor: torch.Tensor) -> str:
    """Give the SHA-256 of a tensor's dtype, shape and bytes."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def model_digests(model: Any) -> dict[str, str]:
    """Give the digest of every parameter of a model by its name; tied ones under each of their names."""
    return {name: tensor_digest(parameter) for name, parameter in model.named_parameters(remove_duplicate=False)}


def judge(
    comparison: LogitComparison, exact: LogitComparison, *, rounded: bool, rows_from: str, effect_lost: float, changed: Sequence[str],
    tensors: int,
) -> Certificate:
    """Turn what was found into a certificate.

    Args:
        comparison: The logits of the artefact, loaded again.
        exact: The logits before rounding, which may differ by no more than `EXACT_WITHIN`; of an fp32 artefact its own.
        rounded: Whether the artefact is in less than fp32, so that its own logits may differ by what rounding costs.
        rows_from: See `Certificate`.
        effect_lost: See `Certificate`.
        changed: Names of tensors that are not as they were to be written.
        tensors: How many tensors were looked at.
    """
    if not comparison.finite:
        reason = comparison.fault
    elif changed:
        reason = f"{len(changed)} tensors were read back otherwise than written, the first is {changed[0]}"
    else:
        reason = exact.fault or ("" if rounded else comparison.fault)
    verdict = "failed" if reason else "rounded" if rounded else "exact"
    return Certificate(
        rows=comparison.rows, rows_from=rows_from, max_abs_logit_difference=comparison.largest, exact_logit_difference=exact.largest,
        top1_agreement=comparison.agreement, effect_lost=effect_lost, tensors_checked=tensors, verdict=verdict, passed=not reason,
        reason=reason,
    )
