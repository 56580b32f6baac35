#!/usr/bin/env bash
# bitsandbytes 0.50.2, CPU: a weight packed in 4 bits whose rows are no whole blocks (columns not a multiple of blocksize) is unpacked
# with the wrong scales. Quantizing lays blocks end to end through the weight, unpacking begins a new block with each row.
# Error relative to the weight: 0.09 where rows are whole blocks, and for the same numbers unpacked as one row; about 0.26 otherwise.
# Exits 0 where it is still so, 1 where it has changed.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/env"
"$room/env/bin/pip" install -q torch==2.13.0 bitsandbytes==0.50.2 numpy
"$room/env/bin/python" - <<'PYTHON'
import copy
import sys

import bitsandbytes
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

print("bitsandbytes", bitsandbytes.__version__, "torch", torch.__version__)
torch.manual_seed(0)


def errors(columns):
    weight = torch.randn(64, columns)
    packed, state = quantize_4bit(weight, blocksize=64, quant_type="nf4")
    flat = copy.copy(state)
    flat.shape = torch.Size((1, weight.numel()))
    found = dequantize_4bit(packed, state), dequantize_4bit(packed, flat).reshape(weight.shape)
    return [float((one - weight).norm() / weight.norm()) for one in found]


wrong = False
for columns in (64, 96, 80, 128):
    as_shaped, as_one_row = errors(columns)
    print(f"64 x {columns}: error {as_shaped:.3f} as shaped, {as_one_row:.3f} as one row")
    wrong |= as_shaped > 1.5 * as_one_row
sys.exit(0 if wrong else 1)
PYTHON
