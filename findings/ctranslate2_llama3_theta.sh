#!/usr/bin/env bash
# ctranslate2 4.8.5 with transformers 4.57.6: of a Llama model with rope_scaling (Llama 3.1 and later) the converter looks for rope_theta inside
# rope_scaling alone; where it stands beside it, as published models and transformers 4 have it, 10000 is taken without a word and the
# logits are others. With rope_theta put into rope_scaling too most of that is gone (the scaling itself is computed a little otherwise). Exits 0 while that is so, 1 where it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==4.57.6" "ctranslate2==4.8.5" "numpy<2.4"
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import json
import sys
from pathlib import Path

import ctranslate2
import numpy
import torch
import transformers
from ctranslate2.converters import TransformersConverter
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(64)}, unk_token="w0"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", bos_token="w1", eos_token="w2")
scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
torch.manual_seed(0)
model = AutoModelForCausalLM.from_config(LlamaConfig(
    vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=16384, rope_theta=500000.0, rope_scaling=scaling, bos_token_id=1, eos_token_id=2)).eval()
for parameter in model.parameters():
    if parameter.dim() > 1:
        torch.nn.init.normal_(parameter, std=0.2)
row = list(range(3, 43))
with torch.no_grad():
    meant = model(torch.tensor([row])).logits[0].numpy()


def apart(folder):
    TransformersConverter(folder).convert(f"{folder}-ct2", force=True)
    generator = ctranslate2.Generator(f"{folder}-ct2", device="cpu", compute_type="float32")
    return float(numpy.abs(numpy.array(generator.forward_batch([row], return_log_probs=False))[0] - meant).max())


for name in ("beside", "inside"):
    model.save_pretrained(name)
    tokenizer.save_pretrained(name)
config = json.loads(Path("inside/config.json").read_text())
config["rope_scaling"]["rope_theta"] = config["rope_theta"]
Path("inside/config.json").write_text(json.dumps(config))
found = {name: apart(name) for name in ("beside", "inside")}
told = ", ".join(f"rope_theta {name} rope_scaling: logits differ by {difference:.1e}" for name, difference in found.items())
print(f"ctranslate2 {ctranslate2.__version__}, transformers {transformers.__version__}: {told}")
sys.exit(0 if found["beside"] > 1 and found["inside"] < 0.5 else 1)
PYTHON
