"""An adapter on disk, tensor by tensor: which module each belongs to, its rank and what scales its update. No model is built.

Source of names and scales: PEFT 0.21's `get_peft_model_state_dict` and `LoraLayer.update_layer`.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_studio.core.errors import InputError
from lora_studio.core.modules import ModuleTree
from lora_studio.core.targets.patterns import PatternTable
from lora_studio.models.peft_names import PREFIX
from lora_studio.models.safetensors_header import SafetensorsHeader, read_header

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
FIELD = "source"
OWN_NAMES = "lora_studio.own_names"
"""Key of a file's metadata that says, as JSON, what tensors are called in memory that it has under other names (`models.peft_names`)."""
_LORA_PART = re.compile(
    r"(?P<module>.+?)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_embedding_A|lora_embedding_B|lora_B\.bias|lora_magnitude_vector(?:\.weight)?"
    r"|token_adapter\.trainable_tokens_delta)"
)
_AGAIN = "Export or save the adapter again."
_WRAPPED = ".base_layer"
_WRAPS = re.compile(r"\.(?:modules_to_save|token_adapter(?=\.base_layer)|base_layer)(?=\.)")
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class SavedPair:
    """A and B of one module, as they lie in the file; B·A is out × in.

    Attributes:
        name: The module in the base model, such as `model.layers.0.self_attn.q_proj`; of a fused parameter `<module>.<parameter>`, once the
            base's tree has said which it is, else `<module>` as saved.
        a_key: Where A lies: r × in (r·experts × in of fused experts; r × rows of an embedding).
        b_key: Where B lies: out × r.
        r: The rank.
        scale: What PEFT multiplies B·A by: `lora_alpha / r`, with rsLoRA `lora_alpha / √r`.
        magnitude_key: Where DoRA's magnitudes lie, empty without.
        bias_key: Where a bias of B lies (`lora_bias`), empty without.
        embedding: Whether it is an embedding's, whose weight is rows × dimension: the transpose of B·A.
        experts: Experts fused in the parameter; 0 for a module.
    """

    name: str
    a_key: str
    b_key: str
    r: int
    scale: float
    magnitude_key: str = ""
    bias_key: str = ""
    embedding: bool = False
    experts: int = 0


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter folder, read through its config and its file's header.

    Attributes:
        folder: Where it lies.
        config: `adapter_config.json` as it stands.
        header: Names, shapes and dtypes of its tensors.
        pairs: A and B by the name of their module.
        whole: Keys of tensors that take a base parameter's place, by that parameter's name, such as `lm_head.weight`: `modules_to_save`,
            trained biases, embeddings PEFT saved beside an adapter.
        token_rows: Keys of trained rows by the name of the embedding they replace rows of; `token_indices` says which.
        stored: What the file calls tensors that are called otherwise here, by their key.
    """

    folder: Path
    config: Mapping[str, Any]
    header: SafetensorsHeader
    pairs: Mapping[str, SavedPair]
    whole: Mapping[str, str] = field(default_factory=dict[str, str])
    token_rows: Mapping[str, str] = field(default_factory=dict[str, str])
    stored: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def open(cls, folder: Path, tree: ModuleTree | None = None) -> SavedAdapter:
        """Read what an adapter folder holds.

        Args:
            folder: With `adapter_config.json` and `adapter_model.safetensors`.
            tree: The base model's; needed to name fused parameters.

        Raises:
            InputError: Something is missing, damaged, no LoRA, or the config and the tensors contradict each other.
        """
        config = read_adapter_config(folder)
        if not (folder / WEIGHTS_NAME).is_file():
            raise InputError(f"{folder / WEIGHTS_NAME} is missing.", "Give a folder with the adapter's weights.", FIELD)
        header, stored = with_own_names(folder / WEIGHTS_NAME)
        return replace(_Reading(folder, config, header, tree).result(), stored=stored)

    @property
    def trained_whole(self) -> list[str]:
        """Parameters that were trained themselves: weights saved whole, but for those that PEFT only saved from beneath an adapter."""
        return [parameter for parameter, key in self.whole.items() if is_trained(key)]

    def is_trained(self, parameter: str) -> bool:
        """Return whether a parameter was trained itself, rather than saved beside an adapter because the vocabulary was resized."""
        if parameter not in self.whole or not is_trained(self.whole[parameter]):
            return False
        listed: list[str] = self.config.get("modules_to_save") or []
        modules = parameter.split(".")[:-1]
        above = [".".join(modules[: depth + 1]) for depth in range(len(modules))]
        return parameter.endswith(".bias") or any(module.endswith(name) for module in above for name in listed)

    @property
    def changed_base(self) -> str:
        """By which `init_lora_weights` the adapter began by changing its base (PiSSA, OLoRA and the like); empty where it did not."""
        start = str(self.config.get("init_lora_weights", True)).lower()
        return start if start.startswith(_CHANGES_BASE) else ""

    @cached_property
    def token_indices(self) -> dict[str, list[int]]:
        """Which rows of which embedding were trained by themselves (`trainable_token_indices`)."""
        listed: Any = self.config.get("trainable_token_indices") or {}
        by_name: dict[str, list[int]] = {"embed_tokens": listed} if isinstance(listed, list) else listed
        found: dict[str, list[int]] = {}
        for name in self.token_rows:
            given = next((rows for ending, rows in by_name.items() if f".{name}".endswith(f".{ending}")), None)
            found[name] = list(given if given is not None else next(iter(by_name.values()), []))
        return found

    @contextlib.contextmanager
    def reading(self) -> Generator[AdapterTensors]:
        """Yield access to the tensors while the block lasts; each is read when asked for."""
        from safetensors import safe_open

        with safe_open(str(self.folder / WEIGHTS_NAME), framework="pt") as file:
            yield AdapterTensors(self, file)


class AdapterTensors:
    """The tensors of an open adapter file."""

    def __init__(self, adapter: SavedAdapter, file: Any) -> None:
        """Take the open file; `SavedAdapter.reading` does."""
        self._adapter = adapter
        self._file = file

    def get(self, key: str) -> Tensor:
        """Read one tensor as it lies in the file."""
        return self._file.get_tensor(self._adapter.stored.get(key, key))

    def factors(self, name: str) -> tuple[Tensor, Tensor]:
        """Return A and B of a module in float32."""
        pair = self._adapter.pairs[name]
        return self.get(pair.a_key).float(), self.get(pair.b_key).float()


def with_own_names(path: Path) -> tuple[SafetensorsHeader, dict[str, str]]:
    """Read an adapter file's header with its tensors named as PEFT has them in memory; and what the file calls those it names otherwise.

    Raises:
        InputError: The file is damaged, or gives two tensors one name.
    """
    header = read_header(path)
    try:
        told: Any = json.loads(header.metadata.get(OWN_NAMES, "{}"))
    except (ValueError, RecursionError):
        told = {}
    names = {key: str(own) for key, own in told.items() if key in header.tensors} if isinstance(told, dict) else {}
    if not names:
        return header, {}
    tensors = {names.get(key, key): entry for key, entry in header.tensors.items()}
    if len(tensors) != len(header.tensors):
        raise InputError(f"{path} gives several tensors one name.", _AGAIN, FIELD)
    return SafetensorsHeader(tensors, header.metadata), {own: key for key, own in names.items()}


def parted(key: str) -> tuple[str, str] | None:
    """Part the name of a LoRA tensor into its module, as saved, and what it is of that, such as `lora_A.weight`; None for other tensors."""
    found = _LORA_PART.fullmatch(key.removeprefix(PREFIX))
    return (found["module"], found["part"]) if found else None


def parameter_of(key: str) -> str:
    """Return the name, in the base model, of the parameter that a weight saved whole stands for, such as `lm_head.weight`."""
    return _WRAPS.sub("", key.removeprefix(PREFIX))


def is_trained(key: str) -> bool:
    """Return whether a weight saved whole was trained itself; what PEFT saves from beneath an adapter was not, but for its bias."""
    return f"{_WRAPPED}." not in key


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Read an adapter's `adapter_config.json`.

    Raises:
        InputError: It is missing, malformed, or no LoRA.
    """
    path = folder / CONFIG_NAME
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.", "Give a PEFT adapter folder.", FIELD) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}.", _AGAIN, FIELD) from error
    if not isinstance(raw, dict):
        raise InputError(f"{path} is not a JSON object.", _AGAIN, FIELD)
    config: dict[str, Any] = raw
    if config.get("peft_type") != "LORA":
        raise InputError(f"{path}: peft_type is {config.get('peft_type')!r}; only LORA is read here.", "Give a LoRA adapter.", FIELD)
    return config


class _Reading:
    """Sorts the tensors of a file by what they are."""

    def __init__(self, folder: Path, config: dict[str, Any], header: SafetensorsHeader, tree: ModuleTree | None) -> None:
        self._folder, self._config, self._header, self._tree = folder, config, header, tree
        self._pairs: dict[str, SavedPair] = {}
        self._whole: dict[str, str] = {}
        self._token_rows: dict[str, str] = {}
        self._rank_of = PatternTable[int](self._table("rank_pattern"), "rank_pattern").lookup(self._number("r"))
        self._alpha_of = PatternTable[float](self._table("alpha_pattern"), "alpha_pattern").lookup(self._number("lora_alpha"))

    def result(self) -> SavedAdapter:
        for key in self._header.tensors:
            self._sort(key)
        pairs = {pair.name: pair for pair in map(self._named, self._pairs.values())}
        if not (pairs or self._whole or self._token_rows):
            raise InputError(f"{self._folder / WEIGHTS_NAME} holds no adapter.", _AGAIN, FIELD)
        return SavedAdapter(self._folder, self._config, self._header, pairs, self._whole, self._token_rows)

    def _sort(self, key: str) -> None:
        match parted(key):
            case (module, "lora_A.weight" | "lora_embedding_A" as part):
                self._take_pair(module, key, embedding=part == "lora_embedding_A")
            case (module, "token_adapter.trainable_tokens_delta"):
                self._token_rows[module] = key
            case None if ".lora_" in key:
                raise self._contradiction(f"{key} is of no kind of LoRA that is read here")
            case None:
                self._take_whole(key)
            case _:  # what goes with an A is looked for from there
                return

    def _take_whole(self, key: str) -> None:
        """Take note of a weight saved whole; where PEFT saved all of a resized embedding, it stands there several times.

        `original_module` is what it was before it was trained; `modules_to_save` is a second copy of what PEFT reads by its plain name.
        """
        parameter = parameter_of(key)
        copied = ".modules_to_save." in key and parameter in self._whole
        if ".original_module." not in key and not copied:
            self._whole[parameter] = key

    def _take_pair(self, module: str, a_key: str, *, embedding: bool) -> None:
        b_key = a_key.replace("lora_embedding_A", "lora_embedding_B") if embedding else a_key.replace(".lora_A.", ".lora_B.")
        a, b = self._header.tensors[a_key], self._header.tensors.get(b_key)
        if b is None or len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
            raise self._contradiction(f"{module} has no A and B that fit each other")
        prefix = f"{PREFIX}{module}" if a_key.startswith(PREFIX) else module
        self._pairs[module] = SavedPair(
            module,
            a_key,
            b_key,
            a.shape[0],
            0.0,
            self._there(f"{prefix}.lora_magnitude_vector", f"{prefix}.lora_magnitude_vector.weight"),
            self._there(f"{prefix}.lora_B.bias"),
            embedding,
        )

    def _named(self, saved: SavedPair) -> SavedPair:
        """Return a pair its rank and scale, and a fused parameter's its name."""
        parameter = self._parameter_of(saved.name)
        pair = replace(saved, name=parameter.name, experts=parameter.experts) if parameter else saved
        r = self._rank_of(pair.name)
        if r * max(1, pair.experts) != saved.r:
            if self._tree is None and saved.r % r == 0 and self._config.get("target_parameters"):
                pair = replace(pair, experts=saved.r // r)
            else:
                raise self._contradiction(f"{pair.name} has rank {saved.r}, the config says {r}")
        alpha = self._alpha_of(pair.name)
        return replace(pair, r=r, scale=alpha / r**0.5 if self._config.get("use_rslora") else alpha / r)

    def _parameter_of(self, saved: str) -> _Parameter | None:
        """Say which parameter of a module nested wrappers stand for: PEFT wraps in the order of the parameters, the first innermost."""
        if self._tree is None or not self._config.get("target_parameters"):
            return None
        module = saved.replace(_WRAPPED, "")
        listed: list[str] = list(self._config["target_parameters"])
        parameters = [
            _Parameter(child.name, child.num_experts)
            for child in self._tree.children.get(module, ())
            if child.kind == "experts" and any(f".{child.name}".endswith(f".{ending}") for ending in listed)
        ]
        depth = saved.count(_WRAPPED)
        if not parameters:
            return None
        if depth >= len(parameters):
            raise self._contradiction(f"{saved} stands for no parameter of the base model")
        return parameters[len(parameters) - 1 - depth]

    def _there(self, *keys: str) -> str:
        return next((key for key in keys if key in self._header.tensors), "")

    def _number(self, key: str) -> Any:
        value: Any = self._config.get(key, 8)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise InputError(f"{self._folder / CONFIG_NAME}: {key} is {value!r}, no number above 0.", _AGAIN, FIELD)
        return value

    def _table(self, key: str) -> dict[str, Any]:
        value: Any = self._config.get(key) or {}
        if not isinstance(value, dict) or not all(type(number) in (int, float) and number > 0 for number in value.values()):
            raise InputError(f"{self._folder / CONFIG_NAME}: {key} is no table of numbers above 0.", _AGAIN, FIELD)
        return value

    def _contradiction(self, what: str) -> InputError:
        return InputError(f"{self._folder} is no sound LoRA adapter: {what}.", _AGAIN, FIELD)


@dataclass(frozen=True)
class _Parameter:
    name: str
    experts: int
