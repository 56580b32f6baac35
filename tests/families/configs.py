"""Tiny configs of every family: the default config with its sizes shrunk by name, and a table of what a family needs besides."""

from __future__ import annotations

from typing import Any

VOCABULARY = 400
"""More than the tokenizer of `tests.tiny` has: tokens for images and the like stand behind its own."""

_SIZES: dict[str, int] = {
    **dict.fromkeys(
        ("vocab_size", "vocab_size_per_layer_input", "decoder_vocab_size", "unpadded_vocab_size", "ngram_vocab_size_base"), VOCABULARY
    ),
    **dict.fromkeys(
        (
            "hidden_size",
            "n_embd",
            "d_model",
            "embedding_size",
            "embedding_dim",
            "emb_dim",
            "word_embed_proj_dim",
            "backbone_hidden_size",
            "attention_hidden_size",
            "lru_width",
            "input_embedding_size",
            "output_embedding_size",
            "kv_lora_rank",
            "q_lora_rank",
            "mamba_d_ssm",
            "o_lora_rank",
            "index_head_dim",
        ),
        32,
    ),
    **dict.fromkeys(
        (
            "intermediate_size",
            "ffn_dim",
            "decoder_ffn_dim",
            "encoder_ffn_dim",
            "ffn_hidden_size",
            "dim_ff",
            "dff",
            "d_inner",
            "feed_forward_size",
            "block_ffn_dim",
            "dense_intermediate_size",
            "intermediate_size_mlp",
        ),
        48,
    ),
    **dict.fromkeys(
        (
            "moe_intermediate_size",
            "shared_expert_intermediate_size",
            "shared_intermediate_size",
            "expert_ffn_hidden_size",
            "moe_shared_expert_intermediate_size",
            "shared_experts_intermediate_size",
            "mamba_d_state",
            "state_size",
            "ssm_state_size",
            "linear_key_head_dim",
            "linear_value_head_dim",
            "sliding_window",
            "sliding_window_size",
            "attention_window_size",
            "mamba_chunk_size",
            "chunk_size",
            "router_hidden_size",
            "mamba_d_head",
            "linear_head_dim",
        ),
        16,
    ),
    **dict.fromkeys(
        (
            "num_hidden_layers",
            "n_layer",
            "n_layers",
            "num_layers",
            "decoder_layers",
            "encoder_layers",
            "num_blocks",
            "num_decoder_layers",
            "num_encoder_layers",
        ),
        2,
    ),
    **dict.fromkeys(
        (
            "num_attention_heads",
            "n_head",
            "n_heads",
            "num_heads",
            "decoder_attention_heads",
            "encoder_attention_heads",
            "num_decoder_attention_heads",
            "num_encoder_attention_heads",
            "attention_heads",
            "swa_num_attention_heads",
            "mamba_n_heads",
            "index_n_heads",
            "linear_num_value_heads",
            "linear_num_heads",
        ),
        4,
    ),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads", "linear_num_key_heads", "num_query_groups"), 2),
    **dict.fromkeys(
        (
            "head_dim",
            "swa_head_dim",
            "v_head_dim",
            "qk_rope_head_dim",
            "qk_nope_head_dim",
            "kv_channels",
            "d_kv",
            "dim_head",
            "attention_head_dim",
            "d_head",
            "rotary_dim",
            "time_step_rank",
            "hidden_size_per_layer_input",
            "d_rel",
            "index_topk",
            "head_size",
            "mamba_head_dim",
            "attention_head_size",
            "laurel_rank",
            "gated_norm_rank",
            "adapter_rank",
        ),
        8,
    ),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(
        (
            "n_shared_experts",
            "moe_num_shared_experts",
            "n_group",
            "topk_group",
            "num_expert_group",
            "num_nextn_predict_layers",
            "first_k_dense_replace",
            "num_dense_layers",
            "mamba_n_groups",
            "n_groups",
            "zero_expert_num",
            "num_shared_experts",
            "mamba_ngroups",
        ),
        1,
    ),
    **dict.fromkeys(
        (
            "max_position_embeddings",
            "n_positions",
            "n_ctx",
            "max_seq_len",
            "model_max_length",
            "context_length",
            "max_target_positions",
            "original_max_position_embeddings",
        ),
        256,
    ),
}
_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_KINDS = ("layer_types", "layers_block_type", "mlp_layer_types", "block_types", "attention_layers", "indexer_types")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
_MOST_LAYERS = 8

_QWEN4: dict[str, Any] = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
    "hc_lowrank": 8,
    "ple_embed_dim": 32,
}
OVERRIDES: dict[str, dict[str, Any]] = {
    "blt": {
        "vocab_size": VOCABULARY,
        "encoder_hash_byte_group_vocab": 64,
        "encoder_hash_byte_group_size": [3, 4],
        "patcher_config": {"vocab_size": VOCABULARY},
        "encoder_config": {"vocab_size": VOCABULARY, "hidden_size_global": 32},
        "decoder_config": {"vocab_size": VOCABULARY, "hidden_size_global": 32},
    },
    "cohere_compass_text": {
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("full_attention", "sliding_attention")}
    },
    "deepseek_v2": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "dots3_note": {
        "text_config": {"per_layer_config": {}, "head_dim": 16},
        "vision_config": {"per_layer_config": {}, "adapter_in_dim": 32, "adapter_out_dim": 32},
        "audio_config": {"adapter_input_size": 32, "adapter_out_dim": 32, "conv_output_size": 7680},
    },
    "dots3_note_text": {"per_layer_config": {}, "head_dim": 16},
    "emu3": {
        "vocabulary_map": {"<image>": VOCABULARY - 1},
        "vq_config": {"codebook_size": 16, "base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1},
    },
    "gemma3n_text": {
        "num_hidden_layers": 5,
        "num_kv_shared_layers": 0,
        "intermediate_size": [48] * 5,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0, 0.0],
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "lfm2": {"layer_types": ["conv", "full_attention", "full_attention"], "num_hidden_layers": 3},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "full_attention"], "num_hidden_layers": 3},
    "mamba2": {"num_heads": 8},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp_text": _QWEN4,
    "roc_bert": {"shape_vocab_size": 64, "pronunciation_vocab_size": 64, "shape_embed_dim": 16, "pronunciation_embed_dim": 16},
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "num_hidden_layers": 4,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "num_key_value_heads": 4,
        "mamba_dt_rank": 8,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention"],
        "hybrid_layer_ids": [1],
        "num_hidden_layers": 3,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "num_key_value_heads": 4,
        "n_mamba_heads": 4,
        "mamba_headdim": 16,
    },
    "reformer": {
        "vocab_size": VOCABULARY,
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [16, 16],
        "attn_layers": ["local", "lsh"],
        "lsh_attn_chunk_length": 8,
        "local_attn_chunk_length": 8,
        "num_buckets": 4,
        "hidden_size": 32,
        "max_position_embeddings": 64,
    },
    "xmod": {"default_language": "en_XX"},
}
"""What a family needs beyond smaller sizes."""
_PUBLISHED_WHOLE = ("emu3", "mllama")
"""Families whose files are of the model with images; of the text part alone, transformers saves a config that it does not load again."""


def families() -> list[str]:
    """Name the families that transformers has a causal language model of, in order."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_family_config(family: str, **changes: Any) -> Any:
    """Return a transformers config of a tiny model of a family; `changes` override its fields."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        default: dict[str, Any] = CONFIG_MAPPING[family]().to_dict()
    except Exception:  # some validate their own defaults away
        default = {}
    fields = {**_overridden(_shrunk(default), OVERRIDES.get(family, {})), **changes}
    if f"{family}_text" in OVERRIDES and "text_config" in fields:
        fields["text_config"].update(OVERRIDES[f"{family}_text"])
    config = AutoConfig.for_model(family, **fields)
    if hasattr(config, "is_decoder") and not getattr(config, "is_encoder_decoder", False):
        config.is_decoder = True
    return config


def tiny_family_model(family: str, **changes: Any) -> Any:
    """Make a tiny model of a family, random from a fixed seed, with logits that are well apart."""
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    config = tiny_family_config(family, **changes)
    made_by: Any = AutoModelForImageTextToText if family in _PUBLISHED_WHOLE else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model = made_by.from_config(config, attn_implementation="sdpa")
        except ValueError:
            model = made_by.from_config(config, attn_implementation="eager")
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.08)
    return model.eval()


def _overridden(fields: dict[str, Any], by: dict[str, Any]) -> dict[str, Any]:
    """Return fields with others in their place; those of a config within are taken one by one."""
    both = {name: _overridden(fields[name], value) for name, value in by.items() if name.endswith("_config") and name in fields}
    return {**fields, **by, **both}


def _shrunk(default: dict[str, Any]) -> dict[str, Any]:
    """Return those of a config's fields that are sizes, smaller."""
    fields: dict[str, Any] = {}
    for name, value in default.items():
        if name.endswith("_config") and isinstance(value, dict) and value:
            fields[name] = _shrunk(value)
            if name == "text_config" and "model_type" in value:
                fields[name]["model_type"] = value["model_type"]
        elif name in _TOKENS and (isinstance(value, int) or value is None):
            fields[name] = _TOKENS[name]
        elif name in _TOKENS:
            fields[name] = [_TOKENS[name]]
        elif name.endswith(("_token_id", "_token_index")) and isinstance(value, int):
            fields[name] = VOCABULARY - 1 - len(fields) % 8
        elif ("drop" in name or "jitter" in name) and isinstance(value, float):
            fields[name] = 0.0
        elif name in _SIZES and isinstance(value, int) and not isinstance(value, bool) and value:
            fields[name] = min(_SIZES[name], value) if name not in _LAYERS else _layers(default)
    if fields.get("num_key_value_heads") and ("kv_lora_rank" in default or "swa_num_key_value_heads" in default):
        fields["num_key_value_heads"] = fields["num_attention_heads"]  # latent attention has as many of both
    return fields


def _layers(default: dict[str, Any]) -> int:
    """Count so many layers that each kind of them is there."""
    wanted = 2
    for name in _KINDS:
        kinds = default.get(name)
        if isinstance(kinds, list | tuple) and kinds and all(isinstance(kind, str) for kind in kinds):
            wanted = max(wanted, *(list(kinds).index(kind) + 1 for kind in set(kinds)))
    return min(wanted, _MOST_LAYERS)
