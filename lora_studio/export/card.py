"""The model card: what the artefact is, what it was made from, how to load it. Written from the run's own record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lora_studio import __version__
from lora_studio.core.config import RunConfig
from lora_studio.core.events import Evaluation, Step, read_events
from lora_studio.export.source import AdapterSource
from lora_studio.models.quantization import SAID


def model_card(source: AdapterSource, kind: str, dtype: str, certificate: Mapping[str, Any]) -> str:
    """Write the card of an artefact as Markdown with the Hub's front matter.

    Args:
        source: What was exported.
        kind: "adapter" or "merged".
        dtype: Of the written weights, such as "float32".
        certificate: As `Certificate.to_json`.
    """
    parts = [_front_matter(source, kind), _title(source, kind), _loading(source, kind), _settings(source, dtype)]
    if source.run_dir and source.config:
        parts.append(_training(source.run_dir, source.config))
    parts.append(_certificate(certificate))
    return "\n".join(parts)


def loading_lines(kind: str, folder: str, base: str) -> str:
    """Give the Python lines that load an artefact with plain transformers and peft."""
    if kind == "merged":
        return (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f"model = AutoModelForCausalLM.from_pretrained({folder!r})\n"
            f"tokenizer = AutoTokenizer.from_pretrained({folder!r})\n"
        )
    return (
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM\n\n"
        f"base = AutoModelForCausalLM.from_pretrained({base!r})\n"
        f"model = PeftModel.from_pretrained(base, {folder!r})\n"
    )


def public_name(name_or_path: str) -> str:
    """Give a model's name for others to read: a Hub id as it is, of a path only its last part."""
    path = Path(name_or_path)
    return path.name if path.is_absolute() or path.exists() else name_or_path


def _front_matter(source: AdapterSource, kind: str) -> str:
    fields: dict[str, Any] = {"library_name": "peft" if kind == "adapter" else "transformers", "pipeline_tag": "text-generation",
                              "tags": ["lora", "text-generation"]}
    if not Path(source.base_name).is_absolute():
        fields = {"base_model": source.base_name, **fields}
    return f"---\n{yaml.safe_dump(fields, sort_keys=False)}---\n"


def _title(source: AdapterSource, kind: str) -> str:
    base = public_name(source.base_name)
    revision = f" (revision {source.base_revision})" if source.base_revision else ""
    adapter = f"A LoRA adapter for {base}{revision}."
    what = adapter if kind == "adapter" else f"{base}{revision} with a LoRA adapter merged into its weights."
    return f"# {source.label}\n\n{what}{_trained_on(source, kind)}\n"


def _trained_on(source: AdapterSource, kind: str) -> str:
    """Say, with a space before it, that an adapter was trained on a quantized base; empty where it was not."""
    held = SAID[source.base_quantization]
    if not held:
        return ""
    merged = " It is merged into the weights in full precision, which differ a little from those." if kind == "merged" else ""
    return f" The adapter was trained on the base held in {held}.{merged}"


def _loading(source: AdapterSource, kind: str) -> str:
    return f"## Load it\n\n```python\n{loading_lines(kind, 'PATH_TO_THIS_FOLDER', public_name(source.base_name))}```\n"


def _settings(source: AdapterSource, dtype: str) -> str:
    keys = ("r", "lora_alpha", "lora_dropout", "target_modules", "target_parameters", "rank_pattern", "alpha_pattern",
            "modules_to_save", "use_rslora", "use_dora", "bias")
    rows = [f"| `{key}` | {json.dumps(source.peft_config[key], ensure_ascii=False)} |" for key in keys if source.peft_config.get(key)]
    return "## Adapter\n\n| setting | value |\n|---|---|\n" + "\n".join([*rows, f"| dtype of the weights | {dtype} |", ""])


def _training(run_dir: Path, config: RunConfig) -> str:
    training = config.training
    lines = [
        f"{training.num_train_epochs:g} epochs" if training.max_steps < 0 else f"at most {training.max_steps} steps",
        f"global batch {training.rows_per_step} rows",
        f"learning rate {training.learning_rate:g}, {training.lr_scheduler_type}",
        f"seed {training.seed}",
        *_results(run_dir / "events.jsonl"), *_data_lines(run_dir / "data.json"),
    ]
    return "## Training\n\n" + "".join(f"- {line}\n" for line in lines)


def _results(events: Path) -> list[str]:
    last_step: Step | None = None
    evaluations: list[Evaluation] = []
    if events.exists():
        with events.open("rb") as lines:
            for event in read_events(lines):
                if isinstance(event, Step):
                    last_step = event
                elif isinstance(event, Evaluation):
                    evaluations.append(event)
    told: list[str] = []
    if last_step:
        told.append(f"{last_step.step} steps, {last_step.trained_tokens:,} trained tokens, last training loss {last_step.loss:.4f}")
    if evaluations:
        told.append(f"evaluation loss {evaluations[0].loss:.4f} at step {evaluations[0].step}, {evaluations[-1].loss:.4f} at the end")
    return told


def _data_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    files = json.loads(path.read_text(encoding="utf-8")).get("files", [])
    names = [Path(str(entry["path"] if isinstance(entry, dict) else entry)).name for entry in files]
    return [f"data: {', '.join(names)}"] if names else []


def _certificate(certificate: Mapping[str, Any]) -> str:
    if certificate["grade"] == "logits":
        compared = (f"The written files were loaded again and compared with base + adapter on {certificate['rows']} rows "
                    f"({certificate['rows_from']})")
    else:
        compared = "The written files were read again and each tensor recomputed; they were not run"
    figures = (
        ("max_abs_logit_difference", "largest logit difference {:.2e}"), ("top1_agreement", "same likeliest token at {:.2%} of positions"),
        ("effect_lost", "{:.2%} of the adapter's effect lost to rounding"), ("update_lost", "{:.2%} of the update to the weights lost"),
    )
    found = [form.format(certificate[key]) for key, form in figures if certificate.get(key) is not None]
    said = ", ".join([f"verdict *{certificate['verdict']}*", *found])
    return f"## Certificate\n\n{compared}: {said}. All of it is in `certificate.html`.\n\nMade with LoRA Studio {__version__}.\n"
