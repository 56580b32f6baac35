"""Adapters for every architecture, with random A and B, as PEFT writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from lora_studio.core.control import TaskContext
from lora_studio.export.task import export

TARGETS: dict[str, dict[str, Any]] = {
    "phi3": {"target_modules": ["qkv_proj", "down_proj"]},
    "gpt2": {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True},
    "gpt_neox": {"target_modules": ["query_key_value", "dense_h_to_4h"]},
    "qwen3_moe": {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]},
}
PLAIN: dict[str, Any] = {"target_modules": ["q_proj", "down_proj"]}
EMBEDDINGS = {"gpt2": "wte", "gpt_neox": "embed_in"}
PROBE = torch.tensor([[5, 9, 120, 33, 7, 250, 18]])


def targets_of(architecture: str) -> dict[str, Any]:
    """Return plain targets of an architecture."""
    return dict(TARGETS.get(architecture, PLAIN))


def make_adapter(base: Path, folder: Path, *, std: float = 0.1, **settings: Any) -> Path:
    """Write a PEFT adapter with random A and B, so that it changes the base."""
    torch.manual_seed(1)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "init_lora_weights": False, **settings})
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ("modules_to_save" in name or "trainable_tokens" in name or name.endswith(".bias")):
            torch.nn.init.normal_(parameter, std=std)
        elif "magnitude" in name:
            parameter.data.mul_(1 + 0.1 * torch.randn_like(parameter))
    model.save_pretrained(str(folder))
    return folder


def with_adapter(base: Path, adapter: Path) -> Any:
    """Load base and adapter as anyone would."""
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter))


def logits(model: Any) -> torch.Tensor:
    """Return a model's logits on the probe, in float32."""
    with torch.inference_mode():
        return model.float().eval()(input_ids=PROBE).logits


def run_export(**arguments: Any) -> dict[str, Any]:
    """Export, and give the result."""
    last: Any = list(export(TaskContext(), **arguments))[-1]
    return last.result
