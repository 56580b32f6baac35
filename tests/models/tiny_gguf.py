"""Write a tiny model as a GGUF file the way llama.cpp's converter lays it out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def write_tiny_gguf(folder: Path, file: Path, family: str, as_float16: bool = False) -> Path:
    """Write the tiny model of `folder` to `file`; `family` is llama, qwen3 or gpt2."""
    from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    layers = config.get("num_hidden_layers", config.get("n_layer"))
    heads = config.get("num_attention_heads", config.get("n_head"))
    writer = GGUFWriter(file, family)
    writer.add_string("general.license", "mit")
    writer.add_block_count(layers)
    writer.add_context_length(256)
    writer.add_embedding_length(config.get("hidden_size", config.get("n_embd")))
    writer.add_feed_forward_length(config.get("intermediate_size", 128))
    writer.add_head_count(heads)
    writer.add_vocab_size(config["vocab_size"])
    if family == "gpt2":
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    else:
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
        writer.add_rope_dimension_count(config["head_dim"])
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    _add_tokenizer(writer, folder)
    names = get_tensor_name_map({"llama": MODEL_ARCH.LLAMA, "qwen3": MODEL_ARCH.QWEN3, "gpt2": MODEL_ARCH.GPT2}[family], layers)
    for name, weights in load_file(folder / "model.safetensors").items():
        stem, _, ending = name.rpartition(".")
        laid_out = _laid_out(name, weights, family, heads, config.get("num_key_value_heads", heads))
        small = weights.ndim > 1 and as_float16
        writer.add_tensor(f"{names.get_name(stem)}.{ending}", np.ascontiguousarray(laid_out, dtype=np.float16 if small else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _laid_out(name: str, weights: np.ndarray, family: str, heads: int, kv_heads: int) -> np.ndarray:
    """Permute llama's q and k rows as llama.cpp does; turn GPT-2's Conv1D weights."""
    if family == "llama" and (".q_proj." in name or ".k_proj." in name):
        count = heads if ".q_proj." in name else kv_heads
        halves = weights.reshape(count, 2, weights.shape[0] // count // 2, *weights.shape[1:])
        return halves.swapaxes(1, 2).reshape(weights.shape)
    if family == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        return weights.T
    return weights


def _add_tokenizer(writer: object, folder: Path) -> None:
    from gguf import GGUFWriter, TokenType

    assert isinstance(writer, GGUFWriter)
    core = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = sorted(core["model"]["vocab"].items(), key=lambda item: item[1])
    special = {entry["content"] for entry in core["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([TokenType.CONTROL if token in special else TokenType.NORMAL for token, _ in vocabulary])
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in core["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(4)
    writer.add_pad_token_id(0)
    writer.add_chat_template((folder / "chat_template.jinja").read_text(encoding="utf-8"))
