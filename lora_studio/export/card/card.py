"""The model card: what the artefact is, what it was made from, how to load it. Written from the run's own record.

Nobody's folders, names or tokens stand in it: of paths the last part, of data files names and counts, never a row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_studio import __version__
from lora_studio.core.config import RunConfig
from lora_studio.core.events import Evaluation, Step, read_events
from lora_studio.core.history import RunHistory
from lora_studio.core.training_settings import TrainingSettings
from lora_studio.export.card.compatibility import Compatibility, compatibility, merged_compatibility
from lora_studio.export.card.curves import curves_svg
from lora_studio.export.card.data_summary import data_lines
from lora_studio.export.card.front_matter import front_matter, licence_note
from lora_studio.export.card.loading import THIS_FOLDER, loading_lines, loadings
from lora_studio.export.export_format import ExportFormat
from lora_studio.export.redact import code, plain, public_name
from lora_studio.export.source import AdapterSource
from lora_studio.models.check import read_model_config
from lora_studio.models.facts import ModelFacts, read_facts

__all__ = ["CARD_NAME", "CURVES_NAME", "loading_lines", "model_card", "public_name", "write_card"]

CARD_NAME, CURVES_NAME = "README.md", "curves.svg"
_SETTINGS = (
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "target_parameters",
    "exclude_modules",
    "layers_to_transform",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "trainable_token_indices",
    "use_rslora",
    "use_dora",
    "bias",
    "lora_bias",
)
_MOST_SHOWN = 400  # characters of one setting
_FIGURES = (
    ("max_abs_logit_difference", "largest logit difference {:.2e}"),
    ("kl_divergence", "mean KL divergence {:.2e}"),
    ("top1_agreement", "same likeliest token at {:.2%} of positions"),
    ("effect_lost", "{:.2%} of the adapter's effect lost to rounding"),
    ("update_lost", "{:.2%} of the update to the weights lost"),
)


def write_card(
    folder: Path, source: AdapterSource, kind: ExportFormat, dtype: str, certificate: Mapping[str, Any], base: Path | None = None
) -> None:
    """Write the card of an artefact into its folder, with the run's loss curves beside it where there is a run.

    Args:
        folder: The artefact's, its files written.
        source: What was exported.
        kind: "adapter", "merged", "gguf", "gguf-adapter" or "mlx-adapter".
        dtype: Of the written weights, such as "float32" or "q8_0".
        certificate: As `Certificate.to_json`.
        base: The base model's folder, for its licence and family; None where it is not here.
    """
    history = history_of(source)
    curves = curves_svg(history, f"{source.label}: loss")
    if curves:
        (folder / CURVES_NAME).write_text(curves, encoding="utf-8")
    files = sorted(path.name for path in folder.glob("*.gguf"))
    facts = read_facts(base) if base else None
    served = _served(folder, source, kind, facts, base)
    card = model_card(
        source, kind, dtype, certificate, facts, history, has_curves=bool(curves), file=files[0] if files else "", served=served
    )
    (folder / CARD_NAME).write_text(card, encoding="utf-8")


def model_card(
    source: AdapterSource,
    kind: ExportFormat,
    dtype: str,
    certificate: Mapping[str, Any],
    facts: ModelFacts | None = None,
    history: RunHistory | None = None,
    *,
    has_curves: bool = False,
    file: str = "",
    served: list[Compatibility] | None = None,
) -> str:
    """Return the card of an artefact as Markdown with the Hub's front matter.

    Args:
        source: What was exported.
        kind: "adapter", "merged", "gguf", "gguf-adapter" or "mlx-adapter".
        dtype: Of the written weights, such as "float32".
        certificate: As `Certificate.to_json`.
        facts: Of the base model; None where they are not known.
        history: As `history_of` gives it; None to read it here.
        has_curves: Whether the picture of the curves stands beside it.
        file: Name of the GGUF file; empty for the usual one.
        served: Which programs serve it; None to find out here, for an adapter.
    """
    parts = [front_matter(source, kind, facts), _title(source, kind, facts, certificate), _loading(source, kind, file, certificate)]
    if served is None and kind == "adapter":
        served = compatibility(source.adapter, facts)
    if served:
        parts.append(_compatibility(served))
    parts.append(_settings(source, dtype))
    if source.run_dir and source.config:
        parts.append(_training(source.run_dir, source.config, history or history_of(source), has_curves=has_curves))
    parts.append(_certificate(certificate))
    return "\n".join(parts)


def _served(
    folder: Path, source: AdapterSource, kind: ExportFormat, facts: ModelFacts | None, base: Path | None
) -> list[Compatibility] | None:
    """Say which programs serve what was written; None where nothing is known of that."""
    if kind == "merged" and (folder / "config.json").is_file():
        return merged_compatibility(read_model_config(folder))
    return compatibility(source.adapter, facts, read_model_config(base) if base else None) if kind == "adapter" else None


def history_of(source: AdapterSource) -> RunHistory:
    """Replay the run that an adapter is of, of a checkpoint's as far as its step; an empty history where there is no run."""
    history = RunHistory()
    events = source.run_dir / "events.jsonl" if source.run_dir else None
    if events is None or not events.is_file():
        return history
    is_checkpoint = source.adapter.parent.name == "checkpoints"
    last = float(source.adapter.name.removeprefix("step-")) if is_checkpoint else float("inf")
    with events.open("rb") as lines:
        for event in read_events(lines):
            if not (isinstance(event, Step | Evaluation) and event.step > last):
                history.add(event)
    return history


def _title(source: AdapterSource, kind: ExportFormat, facts: ModelFacts | None, certificate: Mapping[str, Any]) -> str:
    base = code(public_name(source.base_name))
    revision = _revision(source)
    base += f" (revision {code(revision)})" if revision else ""
    merged = f"{base} with a LoRA adapter merged into its weights"
    what = {
        "adapter": f"A LoRA adapter for {base}.",
        "merged": f"{merged}.",
        "gguf": f"{merged}, as GGUF.",
        "gguf-adapter": f"A LoRA adapter for {base}, as GGUF for llama.cpp.",
        "mlx-adapter": f"A LoRA adapter for {base}, for mlx-lm.",
    }[kind]
    licence = licence_note(facts)
    return f"# {plain(source.label)}\n\n{what}{_trained_on(source, certificate)}\n" + (f"\n{licence}\n" if licence else "")


def _revision(source: AdapterSource) -> str:
    """Return the base's commit that the run found, else the revision that was asked for; a record that cannot be read tells none."""
    if source.run_dir:
        try:
            environment: Any = json.loads((source.run_dir / "environment.json").read_text(encoding="utf-8"))
            commit = environment["base"]["commit"]
        except (OSError, ValueError, KeyError, TypeError):
            commit = ""
        if commit:
            return str(commit)
    return source.base_revision or ""


def _trained_on(source: AdapterSource, certificate: Mapping[str, Any]) -> str:
    """Say, with a space before it, that an adapter was trained on a quantized base, and what it is merged into; empty where it was not."""
    told: Mapping[str, Any] = certificate.get("trained_base") or {}
    if not source.held_in:
        return ""
    said = f" The adapter was trained on the base held in {source.held_in}."
    if told.get("merged_into"):
        apart = told.get("weights_apart")
        differ = f", whose weights differ from those by {apart:.1%}" if apart is not None else ""
        said += f" It is merged into {plain(told['merged_into'])}{differ}."
    if told.get("full_precision"):
        name, apart = plain(told["full_precision"]["name"]), told["full_precision"]["weights_apart"]
        said += f" The base was quantized from {name}; the weights differ by {apart:.1%}."
    return said


def _loading(source: AdapterSource, kind: ExportFormat, file: str, certificate: Mapping[str, Any]) -> str:
    ways = loadings(kind, THIS_FOLDER, public_name(source.base_name), file, source.base_revision or "", _auto(certificate))
    told = "\n".join(f"{way.program}:\n\n```{way.language}\n{way.lines}```\n" for way in ways)
    return f"## Load it\n\n{told}{_other_class(certificate.get('classes') or {})}"


def _auto(certificate: Mapping[str, Any]) -> str:
    return str((certificate.get("classes") or {}).get("auto", ""))


def _other_class(classes: Mapping[str, Any]) -> str:
    """Say how an adapter is loaded into the other class that the base's config names; loaded as it is, it would have no effect there."""
    if "renames" not in classes:
        return ""
    named = ", ".join(f"{code(before)} is {code(after)}" for before, after in classes["renames"].items())
    return (
        f"\nIts names are those of {code(classes['trained'])}, which `AutoModelForCausalLM` makes of the base. In "
        f"{code(classes['other'])}, which the base's config names, {named}: loaded as above it would have no effect there. These lines "
        f"load it there:\n\n"
        f"```python\n{classes['lines']}```\n"
    )


def _compatibility(found: list[Compatibility]) -> str:
    rows = [f"| {entry.program} | {entry.answer} | {entry.told} |" for entry in found]
    return "## Where it can be served\n\n| program | answer | how, or why not |\n|---|---|---|\n" + "\n".join([*rows, ""])


def _settings(source: AdapterSource, dtype: str) -> str:
    config = source.peft_config
    rows = [f"| `{key}` | {_told(config[key])} |" for key in _SETTINGS if config.get(key) not in (None, False, [], {})]
    return "## Adapter\n\n| setting | value |\n|---|---|\n" + "\n".join([*rows, f"| dtype of the weights | {plain(dtype)} |", ""])


def _told(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, int | float):
        return text
    return code(text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…")


def _training(run_dir: Path, config: RunConfig, history: RunHistory, *, has_curves: bool) -> str:
    training = config.training
    lines = [
        _length(training),
        f"global batch {training.rows_per_step} rows",
        f"learning rate {training.learning_rate:g}, {training.lr_scheduler_type}",
        f"seed {training.seed}",
        *(f"chat template with {code(name)} = {code(str(value))}" for name, value in config.data.chat_template_kwargs.items()),
        *_results(history),
        *data_lines(run_dir / "data.json"),
    ]
    picture = f"\n![Training and evaluation loss over the steps]({CURVES_NAME})\n" if has_curves else ""
    return "## Training\n\n" + "".join(f"- {line}\n" for line in lines) + picture


def _length(training: TrainingSettings) -> str:
    if training.max_steps >= 0:
        return f"at most {training.max_steps} steps"
    return f"{training.num_train_epochs:g} epoch{'' if training.num_train_epochs == 1 else 's'}"


def _results(history: RunHistory) -> list[str]:
    """Say how the run went; what a resumed run did again counts once."""
    told: list[str] = []
    loss, evaluation = history.loss, history.evaluation
    if loss.last is not None:
        told.append(f"{history.step} steps, {history.trained_tokens:,} trained tokens, last training loss {loss.last:.4f}")
    if evaluation.last is not None:
        first = f"{evaluation.y[0]:.4f} at step {evaluation.x[0]:.0f}, " if len(evaluation) > 1 else ""
        told.append(f"evaluation loss {first}{evaluation.last:.4f} at step {evaluation.x[-1]:.0f}")
    return told


def _certificate(certificate: Mapping[str, Any]) -> str:
    if certificate.get("grade", "logits") == "logits":
        rows = f" on {certificate['rows']} rows ({certificate['rows_from']})" if certificate.get("rows") else ""
        compared = f"The written files were loaded again and compared with base + adapter{rows}"
    else:
        compared = "The written files were read again and each tensor recomputed; they were not run"
    figures = [words.format(certificate[key]) for key, words in _FIGURES if isinstance(certificate.get(key), int | float)]
    told = ", ".join([f"verdict *{certificate['verdict']}*", *figures])
    return f"## Certificate\n\n{compared}: {told}. All of it is in `certificate.html`.\n\nMade with LoRA Studio {__version__}.\n"
