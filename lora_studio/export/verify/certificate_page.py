"""The certificate as a page that a person can read: one HTML file that needs nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any

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
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5a6675; --line: #d7dde5; --page: #ffffff;
  --good: #16713f; --fair: #8a5a00; --bad: #b3261e }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaf0; --soft: #a3afbd; --line: #36404d; --page: #161b22; --good: #5ccb8e; --fair: #e0ad4f; --bad: #f2867e } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 46rem; margin: 2.5rem auto; padding: 0 1.25rem }
h1 { font-size: 1.5rem; margin: 0 }
h2 { font-size: 1.05rem; margin: 2rem 0 .5rem }
.verdict { font-weight: 600; font-size: 1.15rem; margin: 1rem 0 .25rem; border-left: .3rem solid; padding-left: .8rem }
.exact { color: var(--good) }
.rounded, .approximate { color: var(--fair) }
.failed { color: var(--bad) }
.soft { color: var(--soft) }
table { border-collapse: collapse; width: 100% }
td { border-top: 1px solid var(--line); padding: .4rem 0; vertical-align: top }
td:first-child { width: 52%; color: var(--soft); padding-right: 1rem }
code { font-size: .8rem; overflow-wrap: anywhere }
"""


def certificate_page(certificate: Mapping[str, Any]) -> str:
    """Write the page.

    Args:
        certificate: As `Certificate.to_json`.
    """
    verdict = str(certificate["verdict"])
    title = f"{_TITLES.get(str(certificate['kind']), str(certificate['kind']))}: certificate"
    said = _VERDICTS[verdict] if not certificate["reason"] else f"{certificate['reason']}."
    body = "".join(
        (
            f"<h1>{escape(title)}</h1>",
            f"<p class='verdict {escape(verdict)}'>{_verdict(certificate)}</p><p>{escape(_capital(said))}</p>",
            _advice(certificate),
            _table("What was compared", _compared(certificate)),
            _table("What was found", _found(certificate)),
            _table("What it was made from", (*_origins(certificate), *_inputs(certificate))),
            _table("Files (SHA-256)", ((name, f"<code>{escape(digest)}</code>") for name, digest in certificate["files"].items())),
            f"<p class='soft'>Made with {escape(str(certificate['made_with']))}.</p>",
        )
    )
    return (
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )


def _verdict(certificate: Mapping[str, Any]) -> str:
    verdict = str(certificate["verdict"])
    return escape(f"Passed: {verdict}" if certificate["passed"] else verdict.capitalize())


def _advice(certificate: Mapping[str, Any]) -> str:
    if not certificate.get("offers_float32"):
        return ""
    lost = certificate["effect_lost"] if certificate["effect_lost"] is not None else certificate["update_lost"]
    return (
        f"<p>Rounding to {escape(str(certificate['dtype']))} cost {lost:.1%} of what the adapter does. "
        "Written in float32 nothing is lost.</p>"
    )


def _table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = "".join(f"<tr><td>{escape(name)}</td><td>{value}</td></tr>" for name, value in rows)
    return f"<h2>{escape(title)}</h2><table>{lines}</table>" if lines else ""


def _compared(certificate: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    logits = certificate["grade"] == "logits"
    yield "Grade", "logits: the artefact was loaded and run" if logits else "tensors: each was read again and recomputed; it was not run"
    yield "Loaded again by", escape(str(certificate["loaded_by"]))
    yield "Weights written as", escape(str(certificate["dtype"]))
    if logits:
        yield "Rows", f"{certificate['rows']} ({escape(str(certificate['rows_from']))}), {certificate['positions']:,} positions"
    if certificate.get("computed_in"):
        yield "Computed in", escape(str(certificate["computed_in"]))


def _found(certificate: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
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
            yield title, escape(str(certificate[key]))
    classes = certificate.get("classes")
    if classes and "renames" in classes:
        renames: Mapping[str, str] = classes["renames"]
        names = ", ".join(f"<code>{escape(before)}</code> is <code>{escape(after)}</code> there" for before, after in renames.items())
        yield (
            "Class of the base",
            (
                f"names are those of {escape(str(classes['trained']))}; the base's config names {escape(str(classes['other']))}: {names}. "
                "README.md has the lines for both."
            ),
        )
    yield from _of_trained_base(certificate.get("trained_base") or {})


def _of_trained_base(trained: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if trained.get("merged_into"):
        yield "Merged into", escape(str(trained["merged_into"]))
    elif trained.get("compared_with"):
        yield "Base it was compared on", escape(str(trained["compared_with"]))
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


def _origins(certificate: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for part in ("base", "adapter"):
        for key, value in (certificate.get(part) or {}).items():
            if value:
                shown = f"<code>{escape(str(value))}</code>" if key in ("fingerprint", "sha256", "revision") else escape(str(value))
                yield f"{part.capitalize()}: {key}", shown


def _inputs(certificate: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if certificate.get("method"):
        yield "How", escape(str(certificate["method"]))
    for made in certificate.get("made_from") or ():
        digest = f" <code>{escape(str(made['sha256']))}</code>" if made.get("sha256") else ""
        yield str(made["name"]), f"weight {made['weight']:g}{digest}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
