#!/usr/bin/env bash
# peft 0.21.2 with transformers 5.24: in a model that has dense layers beside layers of experts (Qwen3-MoE's `mlp_only_layers`; DeepSeek's first
# layers are alike), `target_modules` with the whole name of a dense layer's projection, or a pattern for it alone, puts LoRA on the experts'
# parameter of other layers and none on the layer that was named: every target that ends in `down_proj` is taken for the experts'. No warning.
# Exits 0 while that is so, 1 where it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.24.0" "peft==0.21.2" "numpy"
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import peft
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

sizes = dict(vocab_size=64, hidden_size=16, intermediate_size=24, moe_intermediate_size=8, num_hidden_layers=2, num_attention_heads=2)
config = Qwen3MoeConfig(**sizes, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, mlp_only_layers=[0])
found = {}
for target in ("model.layers.0.mlp.down_proj", r".*layers\.0\.mlp\.down_proj", "model.layers.0.self_attn.q_proj"):
    wanted = target if target.startswith(".") else [target]
    model = get_peft_model(AutoModelForCausalLM.from_config(config), LoraConfig(r=2, target_modules=wanted))
    found[target] = [name.partition(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A." in name]
    print(f"peft {peft.__version__}, transformers {transformers.__version__}: {target} gives {found[target]}")
experts, named = ["base_model.model.model.layers.1.mlp.experts"], ["base_model.model.model.layers.0.self_attn.q_proj"]
sys.exit(0 if list(found.values()) == [experts, experts, named] else 1)
PYTHON
