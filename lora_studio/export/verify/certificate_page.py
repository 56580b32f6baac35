"""The certificate as a page that a person can read: one HTML file that needs nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from lora_studio.core.paths import resources_folder

_TITLES = {
    "adapter": "Adapter",
    "merged": "Merged model",
    "gguf": "GGUF model",
    "gguf-adapter": "GGUF adapter",
    "mlx-adapter": "MLX adapter",
}
_VERDICTS = {
    "exact": "The artefact is the base model and the adapter, and no more than the rounding of float32 apart.",
    "rounded": "Every tensor is the correct rounding of the exact sum.",
    "approximate": "It is as near to what was meant as its ranks allow.",
    "failed": "Do not use this artefact.",
}
_TEMPLATE = "certificate.html.j2"


class Code(str):
    """A part of a line that is set as code."""


Line = tuple[str, "str | tuple[str, ...]"]
"""What a line of a table is called, and what it says, as a whole or in parts."""


def certificate_page(certificate: Mapping[str, Any]) -> str:
    """Write the page: `resources/certificate.html.j2`, in which every value is escaped.

    Args:
        certificate: As `Certificate.to_json`.
    """
    verdict = str(certificate["verdict"])
    said = _VERDICTS[verdict] if not certificate["reason"] else f"{certificate['reason']}."
    tables = (
        ("What was compared", [*_compared(certificate)]),
        ("What was found", [*_found(certificate)]),
        ("What it was made from", [*_origins(certificate), *_inputs(certificate)]),
        ("Files (SHA-256)", [(name, Code(digest)) for name, digest in certificate["files"].items()]),
    )
    return _template().render(
        title=f"{_TITLES.get(str(certificate['kind']), certificate['kind'])}: certificate",
        verdict=verdict,
        verdict_text=f"Passed: {verdict}" if certificate["passed"] else verdict.capitalize(),
        said=_capital(said),
        lost=_lost(certificate),
        dtype=certificate["dtype"],
        tables=tables,
        made_with=certificate["made_with"],
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(resources_folder()), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.tests["code"] = _is_code
    return environment.get_template(_TEMPLATE)


def _lost(certificate: Mapping[str, Any]) -> str:
    """Say what share of the adapter's effect rounding cost, where float32 would keep it; empty elsewhere."""
    if not certificate.get("offers_float32"):
        return ""
    lost = certificate["effect_lost"] if certificate["effect_lost"] is not None else certificate["update_lost"]
    return f"{lost:.1%}"


def _is_code(value: Any) -> bool:
    return isinstance(value, Code)


def _compared(certificate: Mapping[str, Any]) -> Iterator[Line]:
    logits = certificate["grade"] == "logits"
    yield "Grade", "logits: the artefact was loaded and run" if logits else "tensors: each was read again and recomputed; it was not run"
    yield "Loaded again by", str(certificate["loaded_by"])
    yield "Weights written as", str(certificate["dtype"])
    if logits:
        yield "Rows", f"{certificate['rows']} ({certificate['rows_from']!s}), {certificate['positions']:,} positions"
    if certificate.get("computed_in"):
        yield "Computed in", str(certificate["computed_in"])


def _found(certificate: Mapping[str, Any]) -> Iterator[Line]:
    figures = (
        ("max_abs_logit_difference", "Largest logit difference from base + adapter", "{:.2e}"),
        ("exact_logit_difference", "Largest logit difference from PEFT's merge, rounded alike", "{:.2e}"),
        ("logit_noise", "Noise: the same computed in another order", "{:.2e}"),
        ("top1_agreement", "Positions with the same likeliest token", "{:.2%}"),
        ("kl_divergence", "Mean KL divergence of a position, in nats", "{:.2e}"),
        ("effect_lost", "Share of the adapter's effect on the logits lost", "{:.2%}"),
        ("update_lost", "Share of the update to the weights lost to rounding", "{:.2%}"),
        ("relative_error", "Distance from what was meant, relative to its size", "{:.2e}"),
        ("least_possible_error", "The least possible at these ranks", "{:.2e}"),
    )
    for key, title, form in figures:
        if certificate.get(key) is not None:
            yield title, form.format(certificate[key]) if certificate[key] else "0"
    if certificate["tensors_checked"]:
        yield "Tensors read again", f"{certificate['tensors_checked']:,}"
    for key, title in (("end_token", "End token"), ("chat_template", "Chat template")):
        if certificate.get(key):
            yield title, str(certificate[key])
    classes = certificate.get("classes")
    if classes and "renames" in classes:
        renames: Mapping[str, str] = classes["renames"]
        names = [part for before, after in renames.items() for part in (", ", Code(before), " is ", Code(after), " there")][1:]
        yield (
            "Class of the base",
            (
                f"names are those of {classes['trained']}; the base's config names {classes['other']}: ",
                *names,
                ". README.md has the lines for both.",
            ),
        )
    yield from _of_trained_base(certificate.get("trained_base") or {})


def _of_trained_base(trained: Mapping[str, Any]) -> Iterator[Line]:
    if trained.get("merged_into"):
        yield "Merged into", str(trained["merged_into"])
    elif trained.get("compared_with"):
        yield "Base it was compared on", str(trained["compared_with"])
    if trained.get("weights_apart") is not None:
        yield "Its weights differ from those that were trained on by", f"{trained['weights_apart']:.1%} of their size"
    if trained.get("full_precision"):
        name, apart = trained["full_precision"]["name"], trained["full_precision"]["weights_apart"]
        yield f"The base was quantized from {name}", f"their weights differ by {apart:.1%} of their size"
    if "top1_agreement" in trained:
        yield (
            f"Against the base in {trained['held_in']} that it was trained on",
            f"largest logit difference {trained['max_abs_logit_difference']:.2e}, same likeliest token {trained['top1_agreement']:.2%}",
        )


def _origins(certificate: Mapping[str, Any]) -> Iterator[Line]:
    for part in ("base", "adapter"):
        for key, value in (certificate.get(part) or {}).items():
            if value:
                shown = Code(value) if key in ("fingerprint", "sha256", "revision") else str(value)
                yield f"{part.capitalize()}: {key}", shown


def _inputs(certificate: Mapping[str, Any]) -> Iterator[Line]:
    if certificate.get("method"):
        yield "How", str(certificate["method"])
    for made in certificate.get("made_from") or ():
        digest = (" ", Code(made["sha256"])) if made.get("sha256") else ()
        yield str(made["name"]), (f"weight {made['weight']:g}", *digest)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
