"""The certificate: what was found when an artefact was read again, the verdict, and the files it speaks of. No torch here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lora_studio import __version__
from lora_studio.core.files import sha256_of, write_atomically
from lora_studio.export.destination import CERTIFICATE_NAME, CERTIFICATE_PAGE
from lora_studio.export.export_format import ExportFormat
from lora_studio.export.verify.certificate_page import certificate_page

Verdict = Literal["exact", "rounded", "failed"]
Grade = Literal["logits", "tensors"]
TOO_MUCH_LOST = 0.05
"""Share of the adapter's effect that rounding may cost before float32 is offered."""


@dataclass(frozen=True)
class Certificate:
    """What was found when an artefact was loaded again, by the program that will serve it.

    Attributes:
        kind: `adapter`, `merged`, `gguf`, `gguf-adapter` or `mlx-adapter`.
        dtype: Of the written weights.
        verdict: `exact` (float32, the function of base + adapter), `rounded` (each tensor is the rounding of the exact sum), or
            `failed`.
        grade: `logits` where the artefact was run, else `tensors`: each was read again and recomputed.
        passed: Whether the artefact may be used.
        reason: Why it failed, else empty.
        loaded_by: The program that loaded it, with its version.
        rows: Rows compared, each at all of its positions.
        rows_from: Where they came from: "held-out rows of the run" or "general text", and why not the former where the run has some.
        positions: Positions compared.
        max_abs_logit_difference: Largest difference of any logit from base + adapter; of a GGUF file, of a log-probability in llama.cpp
            among the ten likeliest tokens.
        exact_logit_difference: The same from PEFT's own merge rounded alike, from which no more than noise may separate it.
        computed_in: The precision in which both were computed: float64 where the model fits into memory in it, else float32.
        logit_noise: Largest difference of a logit of base + adapter computed in two orders.
        top1_agreement: Share of positions whose likeliest token is the same, from 0 to 1.
        kl_divergence: Mean KL(base + adapter ‖ artefact) of a position, in nats.
        effect_lost: ‖artefact − (base + adapter)‖ / ‖(base + adapter) − base‖ in logits: the share of the adapter's effect that rounding
            cost.
        update_lost: ‖written − exact‖ / ‖exact − base‖ over all changed tensors; the effect's stand-in where logits were not compared.
        tensors_checked: Tensors read again and found bit for bit what they should be.
        end_token: The end token that the artefact gives, and whether it is the base's.
        chat_template: Which chat template it carries, in words.
        base: Name, revision and fingerprint of the base model.
        adapter: Name and sha256 of the adapter.
        trained_base: Where the adapter was trained on a quantized base: how far the artefact is from that base + adapter.
        classes: `auto`, the class that loads the base, where it is not AutoModelForCausalLM; and where the base's config names another
            class than the one the adapter's names are of, both, what its names become there, and the lines that load it there.
        files: sha256 of every file of the artefact but the certificate's own.
    """

    kind: ExportFormat
    dtype: str
    verdict: Verdict
    grade: Grade
    passed: bool
    reason: str = ""
    loaded_by: str = ""
    rows: int = 0
    rows_from: str = ""
    positions: int = 0
    max_abs_logit_difference: float | None = None
    exact_logit_difference: float | None = None
    computed_in: str = ""
    logit_noise: float | None = None
    top1_agreement: float | None = None
    kl_divergence: float | None = None
    effect_lost: float | None = None
    update_lost: float | None = None
    tensors_checked: int = 0
    end_token: str = ""
    chat_template: str = ""
    base: Mapping[str, Any] = field(default_factory=dict[str, Any])
    adapter: Mapping[str, Any] = field(default_factory=dict[str, Any])
    trained_base: Mapping[str, Any] | None = None
    classes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    made_with: str = f"LoRA Studio {__version__}"
    schema_version: int = 2

    @property
    def lost(self) -> float:
        """The share of the adapter that rounding cost: of its effect where that is known, else of its update."""
        return (self.effect_lost if self.effect_lost is not None else self.update_lost) or 0.0

    @property
    def offers_float32(self) -> bool:
        """Whether so much was lost that float32 is the better choice."""
        return self.verdict == "rounded" and self.lost > TOO_MUCH_LOST

    def to_json(self) -> dict[str, Any]:
        """Return the certificate as JSON."""
        return {**asdict(self), "offers_float32": self.offers_float32}


def write_certificate(folder: Path, certificate: Certificate, look: Callable[[], None] = lambda: None) -> Certificate:
    """Write the certificate beside the files it speaks of, as JSON and as a page for a person; give it with their sha256.

    Args:
        folder: The artefact's, complete but for the certificate.
        certificate: What was found.
        look: Called between blocks; may raise.
    """
    own = {CERTIFICATE_NAME, CERTIFICATE_PAGE}
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in own)
    whole = replace(certificate, files={path.relative_to(folder).as_posix(): sha256_of(path, look) for path in paths})
    write_atomically(folder / CERTIFICATE_NAME, json.dumps(whole.to_json(), indent=2, ensure_ascii=False) + "\n")
    write_atomically(folder / CERTIFICATE_PAGE, certificate_page(whole.to_json()))
    return whole
