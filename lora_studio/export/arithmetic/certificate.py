"""The certificate of an adapter made by arithmetic: every written update against what it must be, in float64."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_studio import __version__
from lora_studio.core.files import sha256_of, write_atomically
from lora_studio.export.destination import CERTIFICATE_NAME, CERTIFICATE_PAGE
from lora_studio.export.verify.certificate_page import certificate_page

if TYPE_CHECKING:
    from torch import Tensor

    from lora_studio.adapters.deltas import Delta

_ROUNDINGS = 2.0**-22
"""What rounding A, B and their scale to float32 may change in an entry of B·A, as a share of |B|·|A|: four roundings.

A share of the update itself would be wrong: where parts of a sum cancel, it is far smaller than what was rounded.
"""
EXACT_WITHIN = 1e-6
"""‖written − meant‖ / ‖meant‖ at which a result that need not be exact is called so."""
_SLACK = 1e-3  # of the least possible error of a rank


@dataclass
class Errors:
    """What separates written updates from those that were meant.

    Attributes:
        modules: ‖written − meant‖ / ‖meant‖ of each module.
        missing: Modules that were not written.
        size: ‖meant‖² over all.
        error: ‖written − meant‖² over all.
        rounded: What rounding may cost at most, as ‖error‖² over all.
        beyond: Modules with an entry further from what was meant than rounding can have put it.
        changed: The same, from what was worked out and given to be written.
        altered: Keys of what goes along and is not bit for bit as it was.
        least: The least ‖written − meant‖² possible at the ranks written, where it is known of all modules.
        finite: Whether every figure is a number.
    """

    modules: dict[str, float] = field(default_factory=dict[str, float])
    missing: list[str] = field(default_factory=list[str])
    size: float = 0.0
    error: float = 0.0
    rounded: float = 0.0
    beyond: list[str] = field(default_factory=list[str])
    changed: list[str] = field(default_factory=list[str])
    altered: list[str] = field(default_factory=list[str])
    least: float | None = 0.0
    finite: bool = True

    def add(self, name: str, written: Delta, worked_out: Delta, expected: Tensor, least: float | None) -> None:
        """Take a module in.

        Args:
            name: Its name.
            written: Its update, as it was read again.
            worked_out: The update that was given to be written.
            expected: The update that was meant.
            least: The least squared error possible at its rank; None where that is not known.
        """
        found, room = written.dense(), (written.b.abs() @ written.a.abs()).mul_(_ROUNDINGS)
        if bool(((found - worked_out.dense()).abs_() > room).any()):
            self.changed.append(name)
        apart = (found - expected).abs_()
        size, error, rounded = (float(values.square().sum()) for values in (expected, apart, room))
        if bool((apart > room).any()):
            self.beyond.append(name)
        self.finite = self.finite and math.isfinite(size) and math.isfinite(error)
        self.modules[name] = math.sqrt(error / size) if size else 0.0
        self.size, self.error, self.rounded = self.size + size, self.error + error, self.rounded + rounded
        self.least = None if self.least is None or least is None else self.least + least

    @property
    def relative(self) -> float:
        """‖written − meant‖ / ‖meant‖ over all modules; 0 where nothing was meant."""
        return math.sqrt(self.error / self.size) if self.size else 0.0


class ArithmeticCertificate:
    """Turns errors into a verdict."""

    @staticmethod
    def of(method: str, errors: Errors, *, exact: bool, inputs: Sequence[Mapping[str, Any]], more: Mapping[str, Any]) -> dict[str, Any]:
        """Return the certificate as JSON, without its files.

        Args:
            method: What was done, in words.
            errors: What was found.
            exact: Whether the result must be exact; else the nearest of its ranks will do.
            inputs: What it was made from: name, sha256 and weight.
            more: What else is to be told.
        """
        reason = _fault(errors, exact=exact)
        verdict = "failed" if reason else "exact" if not errors.beyond or errors.relative <= EXACT_WITHIN else "approximate"
        worst = max(errors.modules, key=lambda name: errors.modules[name], default="")
        return {
            "schema_version": 2,
            "kind": "adapter",
            "method": method,
            "dtype": "float32",
            "verdict": verdict,
            "grade": "tensors",
            "passed": not reason,
            "reason": reason,
            "loaded_by": "PEFT's names and scales, in float64",
            "rows": 0,
            "rows_from": "",
            "positions": 0,
            "tensors_checked": 2 * len(errors.modules),
            "modules": len(errors.modules),
            "relative_error": errors.relative,
            "largest_error": {"module": worst, "relative": errors.modules.get(worst, 0.0)},
            "least_possible_error": None if errors.least is None or not errors.size else math.sqrt(errors.least / errors.size),
            "made_from": [dict(entry) for entry in inputs],
            "made_with": f"LoRA Studio {__version__}",
            **more,
        }


def write_arithmetic_certificate(folder: Path, certificate: dict[str, Any]) -> dict[str, Any]:
    """Write the certificate as JSON and as a page beside the files it speaks of; give it with their sha256."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in (CERTIFICATE_NAME, CERTIFICATE_PAGE))
    whole = {**certificate, "files": {path.name: sha256_of(path) for path in paths}}
    write_atomically(folder / CERTIFICATE_NAME, json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
    write_atomically(folder / CERTIFICATE_PAGE, certificate_page(whole))
    return whole


def _fault(errors: Errors, *, exact: bool) -> str:
    if errors.missing:
        return f"{len(errors.missing)} updates were not written, the first is that of {errors.missing[0]}"
    if errors.altered:
        return f"{len(errors.altered)} weights that go along are not as they were, the first is {errors.altered[0]}"
    if not errors.finite:
        return "an update is not finite"
    astray = errors.changed or (errors.beyond if exact else [])
    if astray:
        return f"{len(astray)} updates are further from what was meant than rounding puts them, the first is that of {astray[0]}"
    if exact or errors.least is None:
        return ""
    if math.sqrt(errors.error) > math.sqrt(errors.least * (1 + _SLACK)) + math.sqrt(errors.rounded):
        return f"the updates are {errors.relative:.2%} from what was meant, and could be nearer at their ranks"
    return ""
