#!/usr/bin/env bash
# peft 0.21.2: a LoRA on the head alone (or the embedding alone) of an untied model with a resized vocabulary is saved without the other
# end. `save_embedding_layers` is set to True by itself and says so, yet only the targeted end is written; no warning tells that the new rows
# of the other are lost, and the adapter loaded again answers otherwise. Exits 0 while that is so, 1 where it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.24.0" "peft==0.21.2" "numpy"
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig

torch.manual_seed(0)
sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4)
AutoModelForCausalLM.from_config(LlamaConfig(**sizes, tie_word_embeddings=False)).save_pretrained("base")


def resized():
    model = AutoModelForCausalLM.from_pretrained("base")
    model.resize_token_embeddings(72, mean_resizing=False)  # new rows are drawn at random
    return model


model = get_peft_model(resized(), LoraConfig(r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False)).eval()
model.save_pretrained("adapter")
row = torch.tensor([[1, 2, 70, 71]])
with torch.no_grad():
    difference = (PeftModel.from_pretrained(resized(), "adapter").eval()(row).logits - model(row).logits).abs().max().item()
saved = [name for name in load_file("adapter/adapter_model.safetensors") if "embed_tokens" in name]
print(f"peft {peft.__version__}, transformers {transformers.__version__}: saved of the embedding {saved}, logits differ by {difference:.2f}")
sys.exit(0 if not saved and difference > 1e-3 else 1)
PYTHON
