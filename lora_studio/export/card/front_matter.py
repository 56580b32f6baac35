"""The front matter of a model card, in the fields and words that the Hub knows. No torch here.

Source: https://huggingface.co/docs/hub/model-cards and the Hub's model card specification (huggingface/hub-docs, modelcard.md).
"""

from __future__ import annotations

from typing import Any

from huggingface_hub import ModelCardData

from lora_studio.export.card.data_summary import hub_datasets
from lora_studio.export.export_format import ExportFormat
from lora_studio.export.redact import code, hub_id
from lora_studio.export.source import AdapterSource
from lora_studio.models.facts import ModelFacts

_LIBRARIES = {"adapter": "peft", "merged": "transformers", "gguf": "gguf", "gguf-adapter": "gguf", "mlx-adapter": "mlx"}
# The Hub keeps `merge` for several models made one; one base with a merged adapter is what it calls a fine-tune.
_RELATIONS = {"adapter": "adapter", "merged": "finetune", "gguf": "finetune", "gguf-adapter": "adapter", "mlx-adapter": "adapter"}
# Identifiers of https://huggingface.co/docs/hub/repositories-licenses that base models carry; any other is `other` with its name.
_LICENCES = frozenset(
    {
        "apache-2.0",
        "mit",
        "openrail",
        "bigscience-openrail-m",
        "bigscience-bloom-rail-1.0",
        "bigcode-openrail-m",
        "afl-3.0",
        "artistic-2.0",
        "bsl-1.0",
        "bsd",
        "bsd-2-clause",
        "bsd-3-clause",
        "bsd-3-clause-clear",
        "c-uda",
        "cc",
        "cc0-1.0",
        "cc-by-2.0",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc-by-nc-2.0",
        "cc-by-nc-3.0",
        "cc-by-nc-4.0",
        "cc-by-nd-4.0",
        "cc-by-nc-nd-3.0",
        "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-2.0",
        "cc-by-nc-sa-3.0",
        "cc-by-nc-sa-4.0",
        "gemma",
        "gpl",
        "gpl-2.0",
        "gpl-3.0",
        "agpl-3.0",
        "lgpl",
        "lgpl-2.1",
        "lgpl-3.0",
        "isc",
        "llama2",
        "llama3",
        "llama3.1",
        "llama3.2",
        "llama3.3",
        "llama4",
        "mpl-2.0",
        "unlicense",
        "zlib",
    }
)


def front_matter(source: AdapterSource, kind: ExportFormat, facts: ModelFacts | None) -> str:
    """Return the front matter between its lines of dashes.

    Args:
        source: What was exported.
        kind: "adapter", "merged", "gguf", "gguf-adapter" or "mlx-adapter".
        facts: Of the base model; None where they are not known.
    """
    fields: dict[str, Any] = {}
    base = hub_id(source.base_name)
    if base:
        fields |= {"base_model": base, "base_model_relation": _RELATIONS[kind]}
    fields |= {"library_name": _LIBRARIES[kind], "pipeline_tag": "text-generation", "tags": _tags(kind)}
    datasets = hub_datasets(source.run_dir / "data.json") if source.run_dir else []
    if datasets:
        fields["datasets"] = datasets
    fields |= _licence_fields(facts, base)
    return f"---\n{ModelCardData(**fields).to_yaml()}\n---\n"


def licence_note(facts: ModelFacts | None) -> str:
    """Say the base model's licence as its own card gives it; empty where that is not known."""
    if facts is None or not facts.licence:
        return ""
    return f"The base model's licence is {code(facts.licence)}; its terms go with what is made from it."


def _tags(kind: ExportFormat) -> list[str]:
    made_for = {"gguf": ["gguf", "llama.cpp"], "gguf-adapter": ["gguf", "llama.cpp"], "mlx-adapter": ["mlx"]}.get(kind, ["transformers"])
    return ["lora", *(["peft"] if kind == "adapter" else []), "lora-studio", *made_for]


def _licence_fields(facts: ModelFacts | None, base: str) -> dict[str, str]:
    licence = facts.licence.strip() if facts else ""
    if not licence:
        return {}
    if licence.lower() in _LICENCES:
        return {"license": licence.lower()}
    link = {"license_link": f"https://huggingface.co/{base}"} if base else {}
    named = "-".join(licence.lower().split())
    return {"license": "other", **({"license_name": named} if named != "other" else {}), **link}
