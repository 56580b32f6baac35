"""Updates of single experts made alike, so that those of a layer can become one update of its fused parameter.

PEFT fuses what has one rank and one scale: it takes `r` and `lora_alpha` of the settings for all experts, whatever `rank_pattern` and
`alpha_pattern` say of some, and keeps `lora_alpha / r` where rsLoRA divides by √r (`_convert_peft_config_moe`, PEFT 0.21). Here a smaller
rank is filled up with zeros, an expert or a partner without an update gets one of zeros, and a scale of its own goes into B.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_studio.adapters.saved_adapter import PREFIX, parted
from lora_studio.core.errors import InputError
from lora_studio.export.moved_settings import Strengths

PARTNERS = {"gate_proj": "up_proj", "up_proj": "gate_proj", "w1": "w3", "w3": "w1"}
"""What lies in one parameter with a single expert's projection."""
FUSED = {**dict.fromkeys(PARTNERS, "gate_up_proj"), "down_proj": "down_proj", "w2": "down_proj"}
"""The parameter of all experts by what a single expert's projection is called, in transformers 5's Mixtral, Qwen MoE and their like."""
_SINGLE = re.compile(r"(?P<owner>.+\.experts)\.(?P<expert>\d+)\.(?P<projection>\w+)")
_PARTS = ("lora_A.weight", "lora_B.weight")


@dataclass(frozen=True)
class _Update:
    """An update of one projection of one expert.

    Attributes:
        a_ri: A, rank × in.
        b_or: B, out × rank.
        scale: What B·A is multiplied by.
    """

    a_ri: Tensor
    b_or: Tensor
    scale: float

    def padded(self, rank: int, scale: float, dtype: torch.dtype) -> _Update:
        """Return the same update with a larger rank and another scale: zeros beside, the rest of its scale in B."""
        more = rank - self.a_ri.shape[0]
        a_ri = torch.nn.functional.pad(self.a_ri.to(dtype), (0, 0, 0, more))
        b_or = torch.nn.functional.pad(self.b_or.to(dtype), (0, more))
        return _Update(a_ri, b_or if self.scale == scale else b_or * (self.scale / scale), scale)

    def nothing(self, rows: int) -> _Update:
        """Return an update of zeros of a projection with as many columns."""
        return _Update(torch.zeros_like(self.a_ri), self.b_or.new_zeros(rows, self.b_or.shape[1]), self.scale)


def complete_experts(tensors: Mapping[str, Tensor], strengths: Strengths, experts: int, field: str) -> tuple[dict[str, Tensor], Strengths]:
    """Return an adapter whose experts of a layer all have updates of one rank and one scale, which do what theirs did.

    Args:
        tensors: Of the adapter, by PEFT's names.
        strengths: Rank and scale by module.
        experts: How many a layer of the base model has.
        field: What an error is told beside.

    Returns:
        The tensors, and rank and scale of what each fused parameter will have, by its name beneath the old owner.

    Raises:
        InputError: There are more experts than the base has.
    """
    kept: dict[str, Tensor] = {}
    groups: dict[tuple[str, str], dict[tuple[int, str], _Update]] = {}
    for key, tensor in tensors.items():
        module, part = parted(key) or ("", "")
        found = _SINGLE.fullmatch(module)
        if found is None or found["projection"] not in FUSED or part not in _PARTS:
            kept[key] = tensor
        elif part == _PARTS[0]:
            update = _Update(tensor, tensors[key.replace(*_PARTS)], strengths[module][1])
            group = groups.setdefault((found["owner"], FUSED[found["projection"]]), {})
            group[int(found["expert"]), found["projection"]] = update
    fused: dict[str, tuple[int, float]] = {}
    for (owner, parameter), updates in groups.items():
        if max(expert for expert, _ in updates) >= experts:
            message = f"The adapter is on expert {max(updates)[0]} of {owner}; the base model has {experts} experts a layer."
            raise InputError(message, "Give the base model it was trained on.", field)
        made = dict(_completed(updates, experts))
        for (expert, projection), update in made.items():
            name = f"{PREFIX}{owner}.{expert}.{projection}"
            kept[f"{name}.{_PARTS[0]}"], kept[f"{name}.{_PARTS[1]}"] = update.a_ri, update.b_or
        one = next(iter(made.values()))
        fused[f"{owner}.{parameter}"] = (one.a_ri.shape[0] * len({projection for _, projection in made}), one.scale)
    return kept, fused


def _completed(updates: Mapping[tuple[int, str], _Update], experts: int) -> Iterator[tuple[tuple[int, str], _Update]]:
    """Yield an update of every expert and every projection that lies in the same parameter."""
    rank = max(update.a_ri.shape[0] for update in updates.values())
    scale = updates[min(updates)].scale
    narrow = all(update.scale == scale for update in updates.values())
    dtype = updates[min(updates)].a_ri.dtype if narrow else torch.float32  # a scale in B rounds: no more than float32 does
    samples = {projection: update for (_, projection), update in updates.items()}
    for projection, sample in list(samples.items()):
        if projection in PARTNERS:  # gate and up have one shape
            samples.setdefault(PARTNERS[projection], sample.nothing(sample.b_or.shape[0]))
    for expert in range(experts):
        for projection, sample in samples.items():
            update = updates.get((expert, projection)) or sample.nothing(sample.b_or.shape[0])
            yield (expert, projection), update.padded(rank, scale, dtype)
