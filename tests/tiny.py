"""Tiny random models of every architecture under test, with a tokenizer and chat template of their own.

Each is a real transformers model of a few thousand parameters, made from a fixed seed and saved as safetensors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ARCHITECTURES = ("llama", "qwen3", "gemma3", "mistral", "phi3", "gpt2", "gpt_neox", "qwen3_moe")
VOCABULARY = 384

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_TEXT = [
    "Dear support, my parcel never arrived and nobody answers the phone.",
    "The invoice shows the wrong address; please send a corrected one.",
    '{"queue": "delivery", "urgency": "high", "summary": "parcel lost"}',
    "How do I reset my password? The link in the mail has expired.",
]


def tiny_config(architecture: str, **changes: Any) -> Any:
    """Return a transformers config of a tiny model; `changes` override its fields."""
    from transformers import AutoConfig

    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    grouped = {**shape, "num_key_value_heads": 2, "tie_word_embeddings": False}
    by_name: dict[str, tuple[str, dict[str, Any]]] = {
        "llama": ("llama", grouped),
        "mistral": ("mistral", {**grouped, "sliding_window": None}),
        "qwen3": ("qwen3", {**grouped, "head_dim": 8, "tie_word_embeddings": True}),
        "gemma3": (
            "gemma3_text",
            {
                **grouped,
                "head_dim": 8,
                "tie_word_embeddings": True,
                "sliding_window": 16,
                "layer_types": ["sliding_attention", "full_attention"],
            },
        ),
        "phi3": ("phi3", {**grouped, "original_max_position_embeddings": 256}),
        "gpt2": (
            "gpt2",
            {
                "vocab_size": VOCABULARY,
                "n_embd": 32,
                "n_layer": 2,
                "n_head": 4,
                "n_positions": 256,
                "bos_token_id": 1,
                "eos_token_id": 2,
                "pad_token_id": 0,
            },
        ),
        "gpt_neox": ("gpt_neox", {**shape, "tie_word_embeddings": False}),
        "qwen3_moe": (
            "qwen3_moe",
            {
                **grouped,
                "head_dim": 8,
                "num_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 16,
                "decoder_sparse_step": 1,
                "mlp_only_layers": [],
            },
        ),
    }
    model_type, fields = by_name[architecture]
    return AutoConfig.for_model(model_type, **{**fields, **changes})


def save_tiny_model(folder: Path, architecture: str = "llama", seed: int = 0, **changes: Any) -> Path:
    """Make a tiny model with random weights and its tokenizer in `folder`, and give the folder."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(architecture, **changes))
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.08)
    model.save_pretrained(folder)
    save_tiny_tokenizer(folder)
    return folder


def save_tiny_tokenizer(folder: Path, chat_template: str | None = CHAT_TEMPLATE) -> None:
    """Train a byte-level tokenizer of a few hundred tokens and save it in `folder`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE(unk_token=None))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    core.train_from_iterator(
        _TEXT,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<|im_end|>" if chat_template else "</s>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    if chat_template:
        tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)


def write_chat_rows(path: Path, rows: int = 12) -> Path:
    """Write small chat rows of mixed length as JSONL, and give the path."""
    lines = []
    for number in range(rows):
        question = " ".join([_TEXT[number % len(_TEXT)]] * (1 + number % 3))
        answer = json.dumps({"queue": "delivery" if number % 2 else "billing", "urgency": "high"})
        lines.append(json.dumps({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
