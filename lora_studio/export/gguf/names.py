"""How llama.cpp names and turns a family's weights: for families known exactly, what its converter does to each tensor.

Source: `convert_hf_to_gguf.py` and `conversion/` of llama.cpp, with the names of `gguf.get_tensor_name_map`; the tests hold files made by
this against the converter's own, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_studio.core.errors import InputError
from lora_studio.export.gguf.llama_families import LLAMA_CPP_FAMILIES, ROTATED
from lora_studio.models.facts import text_config

if TYPE_CHECKING:
    from torch import Tensor

_NO_WEIGHTS = (".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias")  # buffers of old checkpoints, not taken along
_TURNED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
ROPE_FACTORS = "rope_freqs.weight"
"""What Llama 3 divides its rotary frequencies by: in transformers a setting, in llama.cpp a tensor."""


@dataclass(frozen=True)
class Rows:
    """How rows of an output move: within each head, those of its two halves are interleaved; or heads of fused q, k and v are sorted.

    Attributes:
        heads: Heads among the rows.
        fused: Whether each head has its q, k and v together, as GPT-NeoX stores them; llama.cpp has all of q first.
    """

    heads: int
    fused: bool = False

    def moved(self, weight: Tensor) -> Tensor:
        """Return the rows in llama.cpp's order."""
        if self.fused:
            return weight.reshape(self.heads, 3, -1, *weight.shape[1:]).transpose(0, 1).reshape(weight.shape)
        halves = weight.reshape(self.heads, 2, weight.shape[0] // self.heads // 2, *weight.shape[1:])
        return halves.transpose(1, 2).reshape(weight.shape)


@dataclass(frozen=True)
class Conversion:
    """What becomes of one tensor.

    Attributes:
        rows: How its rows move, if they do.
        turned: Whether it is transposed.
        shift: What is added to every value, before it is rounded.
    """

    rows: Rows | None = None
    turned: bool = False
    shift: float = 0.0

    def together(self, rows: int) -> int:
        """Say how many of a tensor's rows have to be converted at once; it can be done for any multiple of that."""
        if self.turned or (self.rows is not None and self.rows.fused):
            return rows
        return 1 if self.rows is None else rows // self.rows.heads

    def applied(self, block: Tensor, together: int) -> Tensor:
        """Convert some rows; what is added to them is added in float32."""
        if self.rows is not None:
            block = Rows(self.rows.heads if self.rows.fused else block.shape[0] // together, self.rows.fused).moved(block)
        if self.shift:
            block = block.float() + self.shift
        return block.T if self.turned else block


class GgufNames:
    """The names of one model."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Take a model's `config.json`.

        Raises:
            InputError: llama.cpp does not know the family, as far as is known here.
        """
        import gguf

        self.family = str(config.get("model_type", ""))
        self._config = text_config(dict(config))
        self.architecture = LLAMA_CPP_FAMILIES.get(self.family, "")
        kinds: dict[str, Any] = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
        if self.architecture not in kinds:
            raise InputError(f"llama.cpp is not known to run models of the family {self.family}.", "Export it as a merged model.", "kind")
        self._map: Any = gguf.get_tensor_name_map(kinds[self.architecture], self._number("num_hidden_layers", "n_layer", "n_layers"))

    def of(self, name: str) -> str | None:
        """Return llama.cpp's name of a tensor or module, with `.weight` or `.bias` where it has that; None where it has none."""
        if name.endswith(_NO_WEIGHTS):
            return None
        found: str | None = self._map.get_name(name, try_suffixes=(".weight", ".bias"))
        return found

    def conversion(self, name: str) -> Conversion:
        """Say what is done to a tensor, by its name in transformers, with `.weight` or `.bias`."""
        if self.family in ROTATED and ".q_proj." in name:
            return Conversion(rows=Rows(self._number("num_attention_heads")))
        if self.family in ROTATED and ".k_proj." in name:
            return Conversion(rows=Rows(self._number("num_key_value_heads", "num_attention_heads")))
        if self.family == "gpt_neox" and ".query_key_value." in name:
            return Conversion(rows=Rows(self._number("num_attention_heads"), fused=True))
        if self.family == "gpt2" and name.endswith(_TURNED):
            return Conversion(turned=True)
        if self.family == "gemma3_text" and name.endswith("norm.weight"):
            return Conversion(shift=1.0)
        return Conversion()

    def _number(self, *keys: str) -> int:
        found = next((self._config[key] for key in keys if self._config.get(key)), None)
        if not isinstance(found, int):
            raise InputError(f"The base's config.json does not say its {keys[0]}.", "Export it as a merged model.", "kind")
        return found
