"""What a base model is, from its config.json and safetensors headers alone: within a second and without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lora_studio.core.errors import InputError
from lora_studio.models.check import FIELD, check_folder, read_headers, read_model_config
from lora_studio.models.converted import ConvertedFrom
from lora_studio.models.full_precision import front_matter, full_precision_of
from lora_studio.models.gguf_header import GgufHeader, read_gguf
from lora_studio.models.quantized_folders import folder_quantization
from lora_studio.models.safetensors_header import SafetensorsHeader, TensorEntry
from lora_studio.models.stored_quantization import StoredQuantization
from lora_studio.models.stored_tensors import StoredTensors
from lora_studio.models.unpacked import UnpackedTensors

_DTYPE_NAMES = {
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
_HEAD_NAMES = ("lm_head.weight", "embed_out.weight", "output_layer.weight")
_BUFFER_ENDINGS = ("rotary_emb.inv_freq", "attn.masked_bias", "attention.masked_bias", "rotary_pos_emb.inv_freq")
# Families whose configs leave tie_word_embeddings out where it is true.
_TIED_BY_DEFAULT = (
    "gpt2",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3_text",
    "gemma4_text",
    "bloom",
    "opt",
    "gpt_bigcode",
    "falcon",
    "cohere",
    "cohere2",
)
# What families call the part of their config that is the language model's.
_TEXT_PARTS = ("thinker_config", "text_config", "llm_config", "language_config", "language_model_config")


@dataclass(frozen=True)
class ModelFacts:
    """What a base model is.

    Attributes:
        architecture: Its class, such as `LlamaForCausalLM`.
        model_type: transformers' word for the family, such as `llama`.
        parameters: Parameters, tied ones counted once; None when there are no weights to count.
        layers: Decoder layers.
        dtype: How most weights are stored, such as `bfloat16`, or a GGUF type such as `Q4_1`; empty when unknown.
        bytes_on_disk: Size of the weight files.
        tied_embeddings: Whether the head shares the input embedding's weight.
        licence: As its model card gives it, such as `apache-2.0`; empty when unknown.
        hidden_size: Width of the residual stream.
        intermediate_size: Width inside the MLP; of one expert in a mixture of experts.
        vocab_size: Rows of the embedding.
        heads: Attention heads.
        kv_heads: Key and value heads.
        head_dim: Width of one head.
        max_position_embeddings: Longest sequence it was made for, in tokens; 0 when unknown.
        experts: Experts of one layer; 0 for a dense model.
        experts_per_token: Experts each token takes; 0 for a dense model.
        has_chat_template: Whether a chat template comes with it.
        stored: How its weights are quantized in the files; None where they are not.
    """

    architecture: str
    model_type: str
    parameters: int | None
    layers: int
    dtype: str
    bytes_on_disk: int
    tied_embeddings: bool
    licence: str = ""
    hidden_size: int = 0
    intermediate_size: int = 0
    vocab_size: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    max_position_embeddings: int = 0
    experts: int = 0
    experts_per_token: int = 0
    has_chat_template: bool = False
    stored: StoredQuantization | None = None


def read_facts(path: Path) -> ModelFacts:
    """Read the facts of a model's folder (one with only config.json will do) or of a GGUF file.

    Raises:
        InputError: It is no model, or is damaged or refused.
    """
    if path.is_file():
        return _gguf_facts(path)
    check_folder(path)
    config = read_model_config(path)
    headers = read_headers(path)
    shape = text_config(config)
    stored, tensors = _as_meant(path, config, headers)
    tied = _is_tied(config, shape, tensors)
    architectures: list[str] = config.get("architectures") or [""]
    return ModelFacts(
        architecture=architectures[0],
        model_type=str(config["model_type"]),
        parameters=_count_parameters(tensors, tied) if tensors and not (stored and stored.unread) else None,
        dtype=_main_dtype(tensors.values()) or str(config.get("dtype") or config.get("torch_dtype") or ""),
        bytes_on_disk=sum(file.stat().st_size for file in headers),
        tied_embeddings=tied,
        licence=_licence(path),
        has_chat_template=_has_chat_template(path),
        stored=stored,
        **_sizes(shape),
    )


def _as_meant(
    folder: Path, config: dict[str, Any], headers: Mapping[Path, SafetensorsHeader]
) -> tuple[StoredQuantization | None, dict[str, TensorEntry]]:
    """Return how weights are quantized, and all tensors as they would be in full precision."""
    stored = folder_quantization(folder, config, headers)
    if stored is None:
        return None, {name: entry for header in headers.values() for name, entry in header.tensors.items()}
    unpacked = UnpackedTensors(StoredTensors(folder, headers), stored, config)
    stored = replace(
        stored, packed=unpacked.packed_bytes() if stored.stays_packed else {}, full_precision=full_precision_of(folder.name, folder)
    )
    return stored, {name: tensor.entry for name, tensor in unpacked.by_name.items()}


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a config that describes the language model: of a multimodal one, its text_config, however deep it lies."""
    for name in _TEXT_PARTS:
        inner: Any = config.get(name)
        if isinstance(inner, dict):
            return text_config({**{key: value for key, value in config.items() if key != name}, **inner})
    return config


def text_part(config: dict[str, Any]) -> dict[str, Any]:
    """Return the table of a config that describes the language model, itself and not a copy: the config where there is no other."""
    inner = next((config[name] for name in _TEXT_PARTS if isinstance(config.get(name), dict)), None)
    return config if inner is None else text_part(inner)


def _first_number(config: dict[str, Any], *keys: str) -> int:
    for key in keys:
        value: Any = config.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return 0


def _sizes(config: dict[str, Any]) -> dict[str, int]:
    """Read the sizes of a model by whichever of their names its family uses."""
    hidden = _first_number(config, "hidden_size", "n_embd", "d_model", "dim")
    heads = _first_number(
        config,
        "num_attention_heads",
        "n_head",
        "n_heads",
        "num_heads",
        "attention_heads",
        "decoder_attention_heads",
        "num_decoder_attention_heads",
    )
    inner = _first_number(config, "moe_intermediate_size", "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
    if min(hidden, heads) < 0:
        raise InputError("config.json gives a negative size.", "Download or copy the model again.", FIELD)
    return {
        "layers": _layers(config),
        "hidden_size": hidden,
        "intermediate_size": inner or 4 * hidden,
        "vocab_size": _first_number(config, "vocab_size"),
        "heads": heads,
        "kv_heads": _first_number(config, "num_key_value_heads", "n_head_kv", "num_kv_heads") or heads,
        "head_dim": _first_number(config, "head_dim") or (hidden // heads if heads else 0),
        "max_position_embeddings": _first_number(config, "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
        "experts": _first_number(config, "num_experts", "num_local_experts", "n_routed_experts"),
        "experts_per_token": _first_number(config, "num_experts_per_tok", "num_experts_per_token"),
    }


def _layers(config: dict[str, Any]) -> int:
    """Read how many decoder layers there are; some families list their kinds alone."""
    for key in ("layers_block_type", "layer_types", "hybrid_override_pattern"):
        kinds: Any = config.get(key)
        listed = len(kinds) if isinstance(kinds, list | str) else 0
        if listed and not config.get("num_hidden_layers"):
            return listed
    return _first_number(config, "num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_decoder_layers")


def _is_tied(config: dict[str, Any], shape: dict[str, Any], tensors: dict[str, TensorEntry]) -> bool:
    for table in (config, shape):
        if isinstance(table.get("tie_word_embeddings"), bool):
            return bool(table["tie_word_embeddings"])
    if tensors:
        return not any(name.endswith(_HEAD_NAMES) for name in tensors)
    return shape.get("model_type") in _TIED_BY_DEFAULT


def _is_buffer(name: str, entry: TensorEntry) -> bool:
    """Return whether a stored tensor is no parameter: old GPT-2 and GPT-NeoX files hold causal masks and frequencies."""
    is_mask = name.endswith(("attn.bias", "attention.bias")) and len(entry.shape) == 4
    return is_mask or name.endswith(_BUFFER_ENDINGS)


def _count_parameters(tensors: dict[str, TensorEntry], tied: bool) -> int:
    return sum(
        entry.elements for name, entry in tensors.items() if not _is_buffer(name, entry) and not (tied and name.endswith(_HEAD_NAMES))
    )


def _main_dtype(entries: Iterable[TensorEntry]) -> str:
    """Return the dtype that holds most bytes, in torch's words."""
    stored: Counter[str] = Counter()
    for entry in entries:
        stored[entry.dtype] += entry.end - entry.start
    if not stored:
        return ""
    most = stored.most_common(1)[0][0]
    return _DTYPE_NAMES.get(most, most.lower())


def _licence(folder: Path) -> str:
    source = ConvertedFrom.read(folder)
    if source is not None:
        return source.licence
    front = front_matter(folder)
    named: Any = front.get("license_name") if front.get("license") in (None, "other") else front.get("license")
    return str(named or front.get("license") or "")


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    settings = folder / "tokenizer_config.json"
    if not settings.is_file():
        return False
    with settings.open("rb") as file:
        return b'"chat_template"' in file.read(16_000_000)


def _gguf_facts(file: Path) -> ModelFacts:
    header = read_gguf(file)
    heads = header.number("attention.head_count")
    hidden = header.number("embedding_length")
    return ModelFacts(
        architecture=header.architecture,
        model_type=header.architecture,
        parameters=sum(tensor.elements for tensor in header.tensors if tensor.name != "rope_freqs.weight"),
        layers=header.number("block_count"),
        dtype=gguf_dtype(header),
        bytes_on_disk=file.stat().st_size,
        tied_embeddings=all(tensor.name != "output.weight" for tensor in header.tensors),
        licence=str(header.settings.get("general.license", "")),
        hidden_size=hidden,
        intermediate_size=header.number("expert_feed_forward_length") or header.number("feed_forward_length"),
        vocab_size=header.array_lengths.get("tokenizer.ggml.tokens", 0),
        heads=heads,
        kv_heads=header.number("attention.head_count_kv") or heads,
        head_dim=header.number("attention.key_length") or (hidden // heads if heads else 0),
        max_position_embeddings=header.number("context_length"),
        experts=header.number("expert_count"),
        experts_per_token=header.number("expert_used_count"),
        has_chat_template="tokenizer.chat_template" in header.settings,
    )


def gguf_dtype(header: GgufHeader) -> str:
    """Return the type that holds most bytes of a GGUF file, such as `Q4_1`."""
    stored: Counter[str] = Counter()
    for tensor in header.tensors:
        stored[tensor.dtype] += tensor.bytes
    return stored.most_common(1)[0][0] if stored else ""
