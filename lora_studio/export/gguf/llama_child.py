"""Run as a process of its own: llama.cpp over a GGUF file, by `xllamacpp`. A crash in it is this process's alone. Imports nothing of ours.

Reads one JSON object from standard input:
- `model`, and `adapter` or null: GGUF files;
- `rows`: token ids, and `positions`: for each row the lengths after which the next token's probabilities are asked for;
- `top`: how many of them, `threads`: how many threads compute;
- `plain`: a token that is whole text, which is made to come next. The server keeps back probabilities along with a token that is part of a
  character; those it gives are from before that bias.
- `texts`: texts whose tokens are asked for, each with `text` and `with_special`.

Writes one JSON line for each position asked for, `{"row", "length", "top": [[id, log p], …]}`, and one for each text, by its number,
`{"text", "tokens"}`.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from typing import Any


def main() -> int:
    """Answer the request on standard input."""
    request: dict[str, Any] = json.load(sys.stdin)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what llama.cpp prints is not an answer
    import xllamacpp

    def answer(found: dict[str, Any]) -> None:
        answers.write(f"\n{json.dumps(found)}\n")  # llama.cpp may have left a line unended
        answers.flush()

    server: Any = vars(xllamacpp)["Server"](_parameters(xllamacpp, request))
    for number, asked in enumerate(request["texts"]):
        answer({"text": number, "tokens": _tokens(server.listening_address, asked)})
    for number, row in enumerate(request["rows"]):
        for length in request["positions"][number]:
            found: Any = server.handle_completions(
                {
                    "prompt": row[:length],
                    "n_predict": 1,
                    "n_probs": request["top"],
                    "temperature": 0.0,
                    "cache_prompt": True,
                    "post_sampling_probs": False,
                    "logit_bias": [[request["plain"], 1000.0]],
                }
            )
            content = found["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            answer({"row": number, "length": length, "top": [[entry["id"], entry["logprob"]] for entry in content]})
    return 0


def _tokens(address: str, asked: dict[str, Any]) -> list[int]:
    """Ask the server, which listens on this machine alone: of tokens it has no other door."""
    content = {"content": asked["text"], "add_special": asked["with_special"], "parse_special": True}
    request = urllib.request.Request(f"{address}/tokenize", json.dumps(content).encode(), {"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as reply:
        return json.load(reply)["tokens"]


def _parameters(xllamacpp: Any, request: dict[str, Any]) -> Any:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = request["model"]
    parameters.n_ctx = max(len(row) for row in request["rows"]) + 16
    parameters.n_parallel = 1
    parameters.n_gpu_layers = 0
    parameters.warmup = False
    parameters.verbosity = -1
    parameters.swa_full = True  # a cache that keeps a window alone could not be asked for shorter prompts again
    # Keys and values in float16, and attention that rounds to it, would make more of a difference than the weights.
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.cpuparams.n_threads = request["threads"]
    if request["adapter"]:
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = request["adapter"], 1.0
        parameters.lora_adapters = [adapter]
    return parameters


if __name__ == "__main__":
    sys.exit(main())
