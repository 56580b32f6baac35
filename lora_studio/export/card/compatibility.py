"""Where an export can be served, and what would make it so where it cannot: from configs and headers alone. No torch here.

What was run is told from `measured`, with versions. What else each program takes of adapters was read in its source:
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

from lora_studio.adapters.saved_adapter import SavedAdapter
from lora_studio.export.card.measured import MeasuredFormat, Reader, readers, rotary_of
from lora_studio.export.gguf.fit import beyond_gguf
from lora_studio.export.gguf.llama_families import ADAPTER_FAMILIES, LLAMA_CPP_FAMILIES, family_beyond_gguf, family_in_llama_cpp
from lora_studio.export.mlx.format import MLX_FAMILIES
from lora_studio.export.redact import plain
from lora_studio.export.source import WEIGHTS_NAME, read_adapter_config
from lora_studio.models.facts import ModelFacts
from lora_studio.models.safetensors_header import read_header
from lora_studio.models.spellings import what_older_readers_lack

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
VLLM_USUAL_RANK = 16
_VLLM_FAMILIES = frozenset(
    {
        "BailingMoeForCausalLM",
        "Cohere2ForCausalLM",
        "CohereForCausalLM",
        "DeepseekForCausalLM",
        "DeepseekV2ForCausalLM",
        "DeepseekV3ForCausalLM",
        "Ernie4_5ForCausalLM",
        "Exaone4ForCausalLM",
        "ExaoneForCausalLM",
        "FalconH1ForCausalLM",
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
        "Gemma4ForCausalLM",
        "GemmaForCausalLM",
        "Glm4ForCausalLM",
        "Glm4MoeForCausalLM",
        "GlmForCausalLM",
        "GptOssForCausalLM",
        "GPTBigCodeForCausalLM",
        "GraniteForCausalLM",
        "GraniteMoeForCausalLM",
        "HunYuanDenseV1ForCausalLM",
        "InternLM2ForCausalLM",
        "InternLM3ForCausalLM",
        "JambaForCausalLM",
        "Lfm2ForCausalLM",
        "LlamaForCausalLM",
        "MiMoForCausalLM",
        "MiniCPM3ForCausalLM",
        "MiniCPMForCausalLM",
        "MistralForCausalLM",
        "MixtralForCausalLM",
        "NemotronForCausalLM",
        "NemotronHForCausalLM",
        "Olmo2ForCausalLM",
        "Olmo3ForCausalLM",
        "OlmoForCausalLM",
        "OPTForCausalLM",
        "Phi3ForCausalLM",
        "PhiForCausalLM",
        "PhiMoEForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen2MoeForCausalLM",
        "Qwen3ForCausalLM",
        "Qwen3MoeForCausalLM",
        "Qwen3NextForCausalLM",
        "SeedOssForCausalLM",
        "SmolLM3ForCausalLM",
        "Starcoder2ForCausalLM",
    }
)
_OLLAMA_ENGINE = frozenset(
    {
        "deepseek2",
        "gemma3",
        "gemma3n",
        "gemma4",
        "gpt-oss",
        "llama4",
        "mistral3",
        "nemotron_h",
        "olmo3",
        "qwen3",
        "qwen3moe",
        "qwen35",
        "qwen35moe",
        "qwen3next",
        "qwen3vl",
        "qwen3vlmoe",
        "lfm2",
        "lfm2moe",
    }
)
# Families whose merged GGUF was never seen to answer as base + adapter here: it may be offered, for the certificate to judge, not promised.
_UNPROVEN = frozenset({"cohere2", "falcon", "gemma3", "gemma4_text", "gpt_oss", "olmoe", "phi"})
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings")
_HEADS = ("lm_head", "embed_out", "output_layer")

_MERGE = "Merge it into the base model"
_NOT_RUN = " (by its source; it was not run)"
_NEWER = "Load it with the releases of PEFT and transformers that it was made with, or merge it into the base model."
_HOLD = "Hold its answers there against base + adapter before you rely on them."
_PLAIN = frozenset(
    {  # settings that adapters of the kind that was measured have; the second line says nothing of what they compute
        "r",
        "lora_alpha",
        "lora_dropout",
        "target_modules",
        "target_parameters",
        "fan_in_fan_out",
        "bias",
        "peft_type",
        "task_type",
        "auto_mapping",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "peft_version",
        "megatron_core",
        "qalora_group_size",
    }
)
_TO_MLX = f"{_MERGE}: mlx-lm loads the merged folder"
_TO_GGUF = "Merge it and export the model as GGUF"


@dataclass(frozen=True)
class Compatibility:
    """Whether one program can serve an adapter.

    Attributes:
        program: Its name.
        answer: `yes`, `no`, or `not measured`.
        reason: In what form it takes the adapter, or why it does not.
        remedy: What would make it a yes; empty for a yes.
    """

    program: str
    answer: Literal["yes", "no", "not measured"]
    reason: str
    remedy: str = ""

    @property
    def told(self) -> str:
        """Reason and remedy as sentences."""
        return f"{self.reason[:1].upper()}{self.reason[1:]}. {self.remedy}".strip()

    def to_json(self) -> dict[str, str]:
        """Return it as JSON."""
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
        return (
            {int(self.config.get("r") or 0)}
            if stacked
            else {shape[0] for name, shape in self.tensors.items() if (".lora_A." in name or ".lora_embedding_A" in name) and shape}
        )

    @property
    def has_experts(self) -> bool:
        """Whether it is on fused experts' parameters."""
        return bool(self.config.get("target_parameters"))

    @property
    def is_plain(self) -> bool:
        """Whether it is of the kind that was measured: A and B alone, of one rank and scale, on layers or on fused experts."""
        more = any(
            key not in _PLAIN and value not in (None, False, "", [], {}) and (key, value) != ("init_lora_weights", True)
            for key, value in self.config.items()
        )
        return not (more or self.has_bias or self.is_on(_EMBEDDINGS + _HEADS))

    @property
    def has_bias(self) -> bool:
        """Whether biases were trained, the base's or its own."""
        return self.config.get("bias", "none") != "none" or bool(self.config.get("lora_bias"))

    @property
    def has_one_scale(self) -> bool:
        """Whether lora_alpha and r are all that its scale depends on."""
        return not self.config.get("alpha_pattern") and self.ranks <= {self.config.get("r")}

    def is_on(self, endings: tuple[str, ...]) -> bool:
        """Return whether an A stands on a module named so."""
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


def compatibility(adapter: Path, facts: ModelFacts | None, config: Mapping[str, Any] | None = None) -> list[Compatibility]:
    """Say for PEFT, vLLM, llama.cpp, Ollama and MLX whether they serve an adapter, and in what form, and what was measured.

    Args:
        adapter: A PEFT LoRA folder.
        facts: Of its base model; None where that is not here, and then its family is not looked at.
        config: Its base model's `config.json`, by which it is known what was measured; None where that is not here.

    Raises:
        InputError: There is no sound adapter in the folder.
    """
    header = read_header(adapter / WEIGHTS_NAME)
    found = _Adapter(read_adapter_config(adapter), {name: entry.shape for name, entry in header.tensors.items()})
    gguf = _llama_cpp_problems(adapter, found, facts)
    measured = readers(config, "adapter", experts=found.has_experts) if config is not None and found.is_plain else []
    unseen = "" if facts else "; whether it takes this family of models was not looked at"
    in_mlx = unseen + ("" if any(reader.program.startswith("mlx-lm") for reader in measured) else _NOT_RUN)
    untold = [] if measured or config is None else [_not_measured(config, "adapter", is_plain=found.is_plain)]
    return [
        Compatibility("PEFT", "yes", "this folder, by PeftModel.from_pretrained"),
        _judged("vLLM", _vllm_problems(found, facts), f"this folder, by --enable-lora{unseen}{_NOT_RUN}", _MERGE),
        _judged("llama.cpp", gguf, f"as a GGUF adapter, by --lora{unseen}", _TO_GGUF),
        _judged("Ollama", [*gguf, *_ollama_problems(facts)], f"as a GGUF adapter, by ADAPTER in a Modelfile{unseen}{_NOT_RUN}", _TO_GGUF),
        _judged("MLX", _mlx_problems(found, facts), f"as an MLX adapter, by --adapter-path{in_mlx}", _TO_MLX),
        *_measured(measured, _NEWER),
        *untold,
    ]


def merged_compatibility(config: Mapping[str, Any]) -> list[Compatibility]:
    """Say of a merged model which programs were measured to compute the same from it, and which not.

    Args:
        config: Its `config.json`.
    """
    lacking = what_older_readers_lack(config)
    told = [Compatibility("Older programs", "no", lacking.rstrip("."), "Load it with transformers 5.")] if lacking else []
    measured = _measured(readers(config, "merged"), "Load it with transformers 5.")
    return [*(measured or [_not_measured(config, "merged")]), *told]


def _measured(found: list[Reader], remedy: str) -> list[Compatibility]:
    """Turn what was measured into answers: one for all programs that compute the same, one for each that does not."""
    same = [reader for reader in found if reader.outcome == "same"]
    told = [Compatibility("Measured", "yes", f"{', '.join(reader.program for reader in same)}: {same[0].told}")] if same else []
    return told + [
        Compatibility(reader.program, "yes" if reader.outcome == "near" else "no", reader.told, "" if reader.outcome == "near" else remedy)
        for reader in found
        if reader.outcome != "same"
    ]


def _not_measured(config: Mapping[str, Any], form: MeasuredFormat, *, is_plain: bool = True) -> Compatibility:
    """Say that nothing is known of what was not tried: neither a yes nor a no."""
    rotary = rotary_of(config)
    settings = f" with such rotary settings ({plain(rotary)})" if rotary else ""
    what = f"models of the family {plain(str(config.get('model_type', '?')))}{settings}"
    if form == "adapter":
        what = f"adapters for {what}" if is_plain else "adapters that are more than A and B of one rank and scale on layers and experts"
    return Compatibility("Other programs", "not measured", f"were not tried with {what}", _HOLD)


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


def _llama_cpp_problems(folder: Path, adapter: _Adapter, facts: ModelFacts | None) -> list[_Problem]:
    """What stands against it as a GGUF adapter: last of all, what the export itself would refuse."""
    if facts and family_in_llama_cpp(facts.model_type) is None:
        return [_Problem(f"it is not known to have the family {plain(facts.model_type)}", alone="Serve it with PEFT.")]
    found = _shared_problems(adapter)
    if adapter.is_on(_EMBEDDINGS + _HEADS):
        found.append(_Problem("adapters on the embedding or the head are not written as GGUF", "train without them as targets"))
    if not facts or found:
        return found
    refused = beyond_gguf(SavedAdapter.open(folder), _model_type(facts), None)
    if not refused:
        return []
    is_proven = not family_beyond_gguf(_model_type(facts)) and _model_type(facts) not in _UNPROVEN
    alone = "" if is_proven else "Merge it into the base model, or serve it with PEFT."
    return [_Problem(f"{refused[:1].lower()}{refused[1:].rstrip('.')}", alone=alone)]


def _model_type(facts: ModelFacts) -> str:
    """Return transformers' word for the family; of a GGUF file, that which its conversion will have."""
    if facts.architecture != facts.model_type:
        return facts.model_type
    return next(
        (name for name, family in LLAMA_CPP_FAMILIES.items() if family == facts.model_type and name in ADAPTER_FAMILIES), facts.model_type
    )


def _mlx_problems(adapter: _Adapter, facts: ModelFacts | None) -> list[_Problem]:
    if facts and facts.model_type not in MLX_FAMILIES:
        return [_Problem(f"what it calls the layers of the family {plain(facts.model_type)} is not known")]
    return [problem for problem in _shared_problems(adapter) if "DoRA" not in problem.reason]


def _ollama_problems(facts: ModelFacts | None) -> list[_Problem]:
    family = family_in_llama_cpp(facts.model_type) if facts else None
    if family in _OLLAMA_ENGINE:
        return [_Problem(f"its own engine runs the family {family} and takes no adapters", "serve it with llama.cpp")]
    return []
