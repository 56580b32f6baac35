"""Loading exports in processes that know nothing of the project: plain peft, plain transformers, and llama.cpp by xllamacpp."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.end_to_end.conftest import Driven
from tests.end_to_end.person import ROOT
from tests.threads import VARIABLE, share

MESSAGES = 3

TRANSFORMERS = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
asked = json.load(open(sys.argv[1]))
tokenizer = AutoTokenizer.from_pretrained(asked["tokenizer"])
model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=torch.float32)
if asked.get("adapter"):
    from peft import PeftModel
    model = PeftModel.from_pretrained(model, asked["adapter"])
answers = []
for messages in asked["chats"]:
    given = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.eval().generate(**given, do_sample=False, max_new_tokens=48)
    answers.append(tokenizer.decode(out[0, given["input_ids"].shape[1]:], skip_special_tokens=True))
assert not [name for name in sys.modules if name.startswith("lora_studio")]
print("ANSWERS" + json.dumps(answers))
"""

LLAMA = """
import json, sys
import xllamacpp
asked = json.load(open(sys.argv[1]))
settings = xllamacpp.CommonParams()
settings.model.path, settings.n_ctx, settings.n_parallel, settings.n_gpu_layers, settings.verbosity = asked["model"], 1024, 1, 0, -1
settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = asked["threads"]
if asked.get("adapter"):
    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = asked["adapter"], 1.0
    settings.lora_adapters = [adapter]
server = xllamacpp.Server(settings)
answers = []
for messages in asked["chats"]:
    answer = server.handle_chat_completions({"messages": messages, "temperature": 0.0, "max_tokens": 48})
    answers.append(answer["choices"][0]["message"]["content"])
assert not [name for name in sys.modules if name.startswith("lora_studio")]
print("ANSWERS" + json.dumps(answers))
"""


def chats() -> list[list[dict[str, str]]]:
    """The questions of some of the starter's rows."""
    lines = (ROOT / "resources/starter/support_triage.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["messages"][:-1] for line in lines[-MESSAGES:]]


def answers_of(script: str, folder: Path, **asked: object) -> list[str]:
    """Run a script of its own in a bare interpreter, away from the project's checkout."""
    request = folder / "asked.json"
    request.write_text(json.dumps({**asked, "chats": chats(), "threads": share()}), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, str(request)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        env={**environment, "HF_HUB_OFFLINE": "1", VARIABLE: str(share())},
    )
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("ANSWERS"))
    found: list[str] = json.loads(line.removeprefix("ANSWERS"))
    return found


def exported(driven: Driven, kind: str, to: Path, *more: str) -> Path:
    """Export the driven run through the command line; what its models answer is for the caller to see."""
    export = ["export", str(driven.record.run), "--as", kind, "--to", str(to), "--check", "tensors", *more]
    subprocess.run(
        [sys.executable, "-m", "lora_studio", *export],
        cwd=ROOT,
        env=driven.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return to
