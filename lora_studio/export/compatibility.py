"""Where an adapter can be served, and what would make it so where it cannot: from its config and header alone. No torch here.

What each program takes was read in its source:
- vLLM 0.22 (`vllm/config/lora.py`, `vllm/lora/peft_helper.py`, `vllm/lora/lora_model.py`, `docs/models/supported_models.md`).
- llama.cpp of 2026 (`convert_lora_to_gguf.py`, `src/llama-adapter.cpp`); that the scale is one `alpha / rank` does not matter here,
  since our GGUF adapters carry each module's scale in B.
- Ollama of 2026 (`fs/ggml/ggml.go`: families that its own engine runs; `runner/ollamarunner/runner.go`: that engine takes no adapters).
- mlx-lm 0.32 (`mlx_lm/tuner/utils.py`): `adapters.safetensors`, with names and a config of its own, which `mlx_adapter` writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lora_studio.export.mlx_format import MLX_FAMILIES
from lora_studio.export.public import plain
from lora_studio.export.source import WEIGHTS_NAME, read_adapter_config
from lora_studio.models.facts import ModelFacts
from lora_studio.models.safetensors_header import read_header

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
VLLM_USUAL_RANK = 16
_VLLM_FAMILIES = frozenset({
    "BailingMoeForCausalLM", "Cohere2ForCausalLM", "CohereForCausalLM", "DeepseekForCausalLM", "DeepseekV2ForCausalLM",
    "DeepseekV3ForCausalLM", "Ernie4_5ForCausalLM", "Exaone4ForCausalLM", "ExaoneForCausalLM", "FalconH1ForCausalLM",
    "Gemma2ForCausalLM", "Gemma3ForCausalLM", "Gemma4ForCausalLM", "GemmaForCausalLM", "Glm4ForCausalLM", "Glm4MoeForCausalLM",
    "GlmForCausalLM", "GptOssForCausalLM", "GPTBigCodeForCausalLM", "GraniteForCausalLM", "GraniteMoeForCausalLM",
    "HunYuanDenseV1ForCausalLM", "InternLM2ForCausalLM", "InternLM3ForCausalLM", "JambaForCausalLM", "Lfm2ForCausalLM",
    "LlamaForCausalLM", "MiMoForCausalLM", "MiniCPM3ForCausalLM", "MiniCPMForCausalLM", "MistralForCausalLM", "MixtralForCausalLM",
    "NemotronForCausalLM", "NemotronHForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM", "OlmoForCausalLM", "OPTForCausalLM",
    "Phi3ForCausalLM", "PhiForCausalLM", "PhiMoEForCausalLM", "Qwen2ForCausalLM", "Qwen2MoeForCausalLM", "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM", "Qwen3NextForCausalLM", "SeedOssForCausalLM", "SmolLM3ForCausalLM", "Starcoder2ForCausalLM",
})
# transformers' model_type: llama.cpp's name of the family.
LLAMA_CPP_FAMILIES = {
    "bloom": "bloom", "cohere": "command-r", "cohere2": "cohere2", "deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2",
    "falcon": "falcon", "gemma": "gemma", "gemma2": "gemma2", "gemma3": "gemma3", "gemma3_text": "gemma3", "gemma4_text": "gemma4",
    "glm4": "glm4", "gpt2": "gpt2", "gpt_bigcode": "starcoder", "gpt_neox": "gptneox", "gpt_oss": "gpt-oss", "granite": "granite",
    "granitemoe": "granitemoe", "llama": "llama", "mistral": "llama", "mixtral": "llama", "mpt": "mpt", "nemotron": "nemotron",
    "olmo": "olmo", "olmo2": "olmo2", "olmoe": "olmoe", "phi": "phi2", "phi3": "phi3", "phimoe": "phimoe", "qwen2": "qwen2",
    "qwen2_moe": "qwen2moe", "qwen3": "qwen3", "qwen3_moe": "qwen3moe", "smollm3": "smollm3", "stablelm": "stablelm",
    "starcoder2": "starcoder2",
}
_OLLAMA_ENGINE = frozenset({
    "deepseek2", "gemma3", "gemma3n", "gemma4", "gpt-oss", "llama4", "mistral3", "nemotron_h", "olmo3", "qwen3", "qwen3moe", "qwen35",
    "qwen35moe", "qwen3next", "qwen3vl", "qwen3vlmoe", "lfm2", "lfm2moe",
})
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings")
_HEADS = ("lm_head", "embed_out", "output_layer")

_MERGE = "Merge it into the base model"
_TO_MLX = f"{_MERGE}: mlx-lm loads the merged folder"
_TO_GGUF = "Merge it and export the model as GGUF"


@dataclass(frozen=True)
class Compatibility:
    """Whether one program can serve an adapter.

    Attributes:
        program: Its name.
        answer: `yes`, or `no`.
        reason: In what form it takes the adapter, or why it does not.
        remedy: What would make a no a yes; empty for a yes.
    """

    program: str
    answer: Literal["yes", "no"]
    reason: str
    remedy: str = ""

    @property
    def told(self) -> str:
        """Reason and remedy as sentences."""
        return f"{self.reason[:1].upper()}{self.reason[1:]}. {self.remedy}".strip()

    def to_json(self) -> dict[str, str]:
        """Give it as JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Adapter:
    """What the rules look at: settings, and which tensors are there."""

    config: Mapping[str, Any]
    tensors: Mapping[str, tuple[int, ...]]

    @property
    def ranks(self) -> set[int]:
        """Ranks of its modules: rows of A, of an embedding's too; experts lie one behind the other there."""
        stacked = self.has_experts
        return {int(self.config.get("r") or 0)} if stacked else {
            shape[0] for name, shape in self.tensors.items() if (".lora_A." in name or ".lora_embedding_A" in name) and shape}

    @property
    def has_experts(self) -> bool:
        """Whether it is on fused experts' parameters."""
        return bool(self.config.get("target_parameters"))

    @property
    def has_bias(self) -> bool:
        """Whether biases were trained, the base's or its own."""
        return self.config.get("bias", "none") != "none" or bool(self.config.get("lora_bias"))

    @property
    def has_one_scale(self) -> bool:
        """Whether lora_alpha and r are all that its scale depends on."""
        return not self.config.get("alpha_pattern") and self.ranks <= {self.config.get("r")}

    def is_on(self, endings: tuple[str, ...]) -> bool:
        """Say whether an A stands on a module named so."""
        modules = {name.partition(".lora_")[0].rpartition(".")[2] for name in self.tensors if ".lora_" in name}
        return not modules.isdisjoint(endings)


@dataclass(frozen=True)
class _Problem:
    """What stands against an adapter in one program, and what helps beside merging it.

    Attributes:
        reason: What does.
        otherwise: What could be done instead of merging, as the end of a sentence.
        alone: The one thing that helps, where merging need not or would not, as a sentence.
    """

    reason: str
    otherwise: str = ""
    alone: str = ""


def compatibility(adapter: Path, facts: ModelFacts | None) -> list[Compatibility]:
    """Say for PEFT, vLLM, llama.cpp, Ollama and MLX whether they serve an adapter, and in what form.

    Args:
        adapter: A PEFT LoRA folder.
        facts: Of its base model; None where that is not here, and then its family is not looked at.

    Raises:
        InputError: There is no sound adapter in the folder.
    """
    header = read_header(adapter / WEIGHTS_NAME)
    found = _Adapter(read_adapter_config(adapter), {name: entry.shape for name, entry in header.tensors.items()})
    gguf = _llama_cpp_problems(found, facts)
    unseen = "" if facts else "; whether it takes this family of models was not looked at"
    return [
        Compatibility("PEFT", "yes", "this folder, by PeftModel.from_pretrained"),
        _judged("vLLM", _vllm_problems(found, facts), f"this folder, by --enable-lora{unseen}", _MERGE),
        _judged("llama.cpp", gguf, f"as a GGUF adapter, by --lora{unseen}", _TO_GGUF),
        _judged("Ollama", [*gguf, *_ollama_problems(facts)], f"as a GGUF adapter, by ADAPTER in a Modelfile{unseen}", _TO_GGUF),
        _judged("MLX", _mlx_problems(found, facts), f"as an MLX adapter, by --adapter-path{unseen}", _TO_MLX),
    ]


def _judged(program: str, problems: list[_Problem], form: str, merge: str) -> Compatibility:
    """Turn problems into an answer; merging helps with all of them, so with several it is the one thing told."""
    if not problems:
        return Compatibility(program, "yes", form)
    only = problems[0] if len(problems) == 1 else _Problem("")
    remedy = only.alone or (f"{merge}, or {only.otherwise}." if only.otherwise else f"{merge}.")
    return Compatibility(program, "no", "; ".join(problem.reason for problem in problems), remedy)


def _shared_problems(adapter: _Adapter) -> list[_Problem]:
    """What is more than A and B, or elsewhere than on a linear layer: neither vLLM nor llama.cpp takes it."""
    found: list[_Problem] = []
    if adapter.config.get("use_dora"):
        found.append(_Problem("it does not take DoRA", "train with use_dora off"))
    if adapter.config.get("modules_to_save"):
        found.append(_Problem("it takes no modules that were trained whole (modules_to_save)", "train without modules_to_save"))
    if adapter.config.get("trainable_token_indices"):
        found.append(_Problem("it takes no single trained tokens (trainable_token_indices)"))
    if adapter.has_bias:
        found.append(_Problem("it takes no trained biases (bias, lora_bias)", "train with bias none"))
    if adapter.has_experts:
        found.append(_Problem("it does not take adapters on fused experts (target_parameters) as PEFT stores them"))
    return found


def _vllm_problems(adapter: _Adapter, facts: ModelFacts | None) -> list[_Problem]:
    found = _shared_problems(adapter)
    if facts and facts.architecture not in _VLLM_FAMILIES:
        found.insert(0, _Problem(f"it is not known to take adapters for {plain(facts.architecture)}"))
    if adapter.is_on(_EMBEDDINGS + _HEADS):
        found.append(_Problem("it takes adapters on the embedding or the head for few families only", "train without them as targets"))
    if not adapter.has_one_scale:
        found.append(_Problem("it scales every module by lora_alpha and r, and reads no rank_pattern or alpha_pattern"))
    rank = max(adapter.ranks, default=0)
    if rank > VLLM_RANKS[-1]:
        found.append(_Problem(f"its largest rank is {VLLM_RANKS[-1]}, this one's is {rank}", "cut it to a smaller rank"))
    elif rank > VLLM_USUAL_RANK:
        needed = next(allowed for allowed in VLLM_RANKS if allowed >= rank)
        reason = f"it takes ranks up to {VLLM_USUAL_RANK} unless told otherwise, and this one's is {rank}"
        found.append(_Problem(reason, alone=f"Start vLLM with --max-lora-rank {needed}."))
    return found


def _llama_cpp_problems(adapter: _Adapter, facts: ModelFacts | None) -> list[_Problem]:
    if facts and family_in_llama_cpp(facts) is None:
        return [_Problem(f"it is not known to have the family {plain(facts.model_type)}", alone="Serve it with PEFT.")]
    found = _shared_problems(adapter)
    if adapter.is_on(_EMBEDDINGS + _HEADS):
        found.append(_Problem("adapters on the embedding or the head are not written as GGUF", "train without them as targets"))
    return found


def _mlx_problems(adapter: _Adapter, facts: ModelFacts | None) -> list[_Problem]:
    if facts and facts.model_type not in MLX_FAMILIES:
        return [_Problem(f"what it calls the layers of the family {plain(facts.model_type)} is not known")]
    return [problem for problem in _shared_problems(adapter) if "DoRA" not in problem.reason]


def _ollama_problems(facts: ModelFacts | None) -> list[_Problem]:
    family = family_in_llama_cpp(facts) if facts else None
    if family in _OLLAMA_ENGINE:
        return [_Problem(f"its own engine runs the family {family} and takes no adapters", "serve it with llama.cpp")]
    return []


def family_in_llama_cpp(facts: ModelFacts) -> str | None:
    """Give llama.cpp's name of a base model's family; None where it is not known to have it. A GGUF file names it itself."""
    return facts.model_type if facts.model_type in LLAMA_CPP_FAMILIES.values() else LLAMA_CPP_FAMILIES.get(facts.model_type)
