"""Tiny models of families with more than attention and an MLP in a layer: state spaces, convolutions, routers, indexers, images."""

from __future__ import annotations

from typing import Any

_SHAPE: dict[str, Any] = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
_STATE: dict[str, Any] = {
    "mamba_d_state": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "mamba_d_ssm": 64,
    "mamba_chunk_size": 16,
}
_MAMBA: dict[str, Any] = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "state_size": 8,
    "time_step_rank": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
_LATENT: dict[str, Any] = {
    **{key: value for key, value in _SHAPE.items() if key != "head_dim"},
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
}
_LINEAR: dict[str, Any] = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "linear_attention"],
}
FAMILIES: dict[str, dict[str, Any]] = {
    "falcon_h1": {**_SHAPE, **_STATE},
    "mamba": _MAMBA,
    "mamba2": {**_MAMBA, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 16, "expand": 2},
    "nemotron_h": {
        **_SHAPE,
        "layers_block_type": ["mamba", "attention", "moe", "mlp"],
        "ssm_state_size": 8,
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "n_groups": 1,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "chunk_size": 16,
        "n_group": 1,
        "topk_group": 1,
        "n_shared_experts": 1,
        "moe_shared_expert_intermediate_size": 16,
        "use_mamba_kernels": False,
        "expand": 2,
    },
    "llama4_text": {**_SHAPE, **_EXPERTS, "num_experts_per_tok": 1, "intermediate_size_mlp": 48, "interleave_moe_layer_step": 1},
    "phimoe": {**_SHAPE, **_EXPERTS},
    "recurrent_gemma": {
        **_SHAPE,
        "num_hidden_layers": 3,
        "block_types": ("recurrent", "recurrent", "attention"),
        "lru_width": 32,
        "attention_window_size": 16,
    },
    "jamba": {
        **_SHAPE,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "attn_layer_period": 4,
        "attn_layer_offset": 1,
        "num_experts": 4,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "use_mamba_kernels": False,
    },
    "lfm2": {**_SHAPE, "layer_types": ["conv", "full_attention", "conv", "conv"]},
    "qwen3_next": {
        **_SHAPE,
        **_LINEAR,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "deepseek_v32": {**_LATENT, "index_topk": 4, "index_n_heads": 2, "index_head_dim": 16, "n_shared_experts": 1},
    "gpt_oss": {**_SHAPE, **_EXPERTS, "layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 16},
    "falcon": {"vocab_size": 384, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "ffn_hidden_size": 48},
    "mllama": {"text_config": {**_SHAPE, "cross_attention_layers": [3]}},
    "gemma3": {
        "text_config": {**_SHAPE, "num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16},
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        "mm_tokens_per_image": 4,
    },
    "qwen3_vl": {
        "text_config": _SHAPE,
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 24,
            "depth": 1,
            "num_heads": 2,
            "out_hidden_size": 32,
            "deepstack_visual_indexes": [0],
        },
    },
    "qwen3_5": {
        "text_config": {**_SHAPE, **_LINEAR},
        "vision_config": {"hidden_size": 16, "intermediate_size": 24, "depth": 1, "num_heads": 2, "out_hidden_size": 32},
    },
    "hunyuan_v1_moe": {**_SHAPE, "num_experts": 4, "moe_topk": 2},
    "opt": {
        "vocab_size": 384,
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 32,
    },
    "xlm": {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "n_words": 384},
    "rwkv": {"vocab_size": 384, "hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2, "context_length": 256},
}


def family_config(family: str, **changes: Any) -> Any:
    """Return a transformers config of a tiny model of a family; `changes` override its fields."""
    from transformers import AutoConfig

    return AutoConfig.for_model(family, **{**FAMILIES[family], **changes})


def meta_family(family: str, **changes: Any) -> Any:
    """Return a tiny model of a family on the meta device."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(family_config(family, **changes), attn_implementation="eager")
    model.tie_weights()
    return model


def family_model(family: str, **changes: Any) -> Any:
    """Return a tiny model of a family with random weights, frozen."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(family_config(family, **changes), attn_implementation="eager")
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    return model.requires_grad_(False).eval()
