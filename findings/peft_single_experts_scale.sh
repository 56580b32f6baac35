#!/usr/bin/env bash
# peft 0.21.2 with transformers 5.24: an adapter on single experts, as transformers 4 had them, is carried to the fused parameter when it is
# loaded. `rank_pattern` and `alpha_pattern` of the experts are passed over (the fused one gets twice `r` and twice `lora_alpha`), and with rsLoRA
# the doubled rank under the root makes the update √2 times what it was. No warning, no error. Exits 0 while that is so, 1 where it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.24.0" "peft==0.21.2" "numpy"
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import json
import os
import sys

import peft
import torch
import transformers
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

sizes = dict(vocab_size=64, hidden_size=16, intermediate_size=24, moe_intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
AutoModelForCausalLM.from_config(Qwen3MoeConfig(**sizes, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2)).save_pretrained("base")
torch.manual_seed(0)
tensors = {}
for expert in range(4):
    for name, (rows, columns) in {"gate_proj": (8, 16), "up_proj": (8, 16), "down_proj": (16, 8)}.items():
        key = f"base_model.model.model.layers.0.mlp.experts.{expert}.{name}"
        tensors[f"{key}.lora_A.weight"], tensors[f"{key}.lora_B.weight"] = torch.randn(2, columns), torch.randn(rows, 2)


def times_what_was_meant(meant, **settings):
    """Load the adapter; give the size of the fused update beside B·A times the scale that its own settings say."""
    os.makedirs("adapter", exist_ok=True)
    save_file(tensors, "adapter/adapter_model.safetensors")
    config = dict(peft_type="LORA", task_type="CAUSAL_LM", r=2, lora_alpha=6, target_modules=["gate_proj", "up_proj", "down_proj"])
    json.dump({**config, **settings}, open("adapter/adapter_config.json", "w"))
    base = AutoModelForCausalLM.from_pretrained("base")
    before = base.model.layers[0].mlp.experts.gate_up_proj.detach().clone()
    merged = PeftModel.from_pretrained(base, "adapter").merge_and_unload()
    found = (merged.model.layers[0].mlp.experts.gate_up_proj - before)[:, :8]
    key = "base_model.model.model.layers.0.mlp.experts.{}.gate_proj.lora_{}.weight"
    right = torch.stack([tensors[key.format(expert, "B")] @ tensors[key.format(expert, "A")] for expert in range(4)])
    return (found.norm() / (meant * right).norm()).item()


plain = times_what_was_meant(6 / 2)
pattern = times_what_was_meant(12 / 2, alpha_pattern={"gate_proj": 12, "up_proj": 12})
rooted = times_what_was_meant(6 / 2**0.5, use_rslora=True)
print(f"peft {peft.__version__}, transformers {transformers.__version__}: of what was meant {plain:.3f}, by alpha_pattern {pattern:.3f}, by rsLoRA {rooted:.3f}")
sys.exit(0 if abs(plain - 1) < 1e-3 and abs(pattern - 0.5) < 1e-3 and abs(rooted - 2**0.5) < 1e-3 else 1)
PYTHON
