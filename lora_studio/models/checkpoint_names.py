"""Which tensors in a model's files are which parameters in memory.

transformers renames many as it loads them, and puts some together: the experts of a mixture are separate tensors on disk and one in memory.
Source: `convert_and_load_state_dict_in_model` in transformers' `core_model_loading`, whose rules are used here as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lora_studio.core.errors import StudioError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Group:
    """Tensors on disk and the parameters that they become together; mostly one of each.

    Attributes:
        stored: Names on disk, by what the rules call them before they are put together.
        parameters: Names in memory.
        converter: transformers' rule that puts them together; None where a tensor only has another name.
    """

    stored: dict[str, str] = field(default_factory=dict[str, str])
    parameters: list[str] = field(default_factory=list[str])
    converter: Any = None


class CheckpointNames:
    """The names of one checkpoint.

    Attributes:
        groups: Everything on disk that becomes a parameter.
        others: Names on disk that no parameter has: old buffers, or weights of parts that are not loaded.
    """

    def __init__(self, model: PreTrainedModel, stored: list[str]) -> None:
        """Sort the names.

        Args:
            model: The base model on the meta device.
            stored: Every tensor name in its files.
        """
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key

        rules: list[Any] = get_model_conversion_mapping(model)
        self._model: Any = model
        self._state: dict[str, Any] = model.state_dict()
        self._renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        self._converters: list[Any] = [rule for rule in rules if isinstance(rule, WeightConverter)]
        self.groups: list[Group] = []
        self.others: list[str] = []
        self._fused: dict[str, Group] = {}
        for name in sorted(stored, key=dot_natural_key):
            self._sort(name)

    @cached_property
    def by_parameter(self) -> dict[str, Group]:
        """Find the group that a parameter is made of."""
        return {parameter: group for group in self.groups for parameter in group.parameters}

    def scatter(self, group: Group, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take a group's parameters apart into tensors as they lie on disk.

        Args:
            group: One of `groups`.
            tensors: By name of parameter; those left out count as zeros. Any device, the meta one too.

        Raises:
            StudioError: They cannot be taken apart as the files have them.
        """
        if group.converter is None:
            return {next(iter(group.stored.values())): tensors[group.parameters[0]]}
        apart = self._apart(group, tensors)
        if apart.keys() != group.stored.keys():
            raise StudioError(
                f"{group.parameters[0]} lies in the base's files in a way that is not known here: {sorted(group.stored.values())[0]}.",
                "Export the adapter instead of merging it.",
                "kind",
            )
        return {group.stored[name]: tensor for name, tensor in apart.items()}

    def _sort(self, stored: str) -> None:
        from transformers.core_model_loading import rename_source_key

        # Two calls for the name in between: the functions that part them by themselves are not in every release.
        renamed, _ = rename_source_key(stored, self._renamings, [])
        parameter, pattern = rename_source_key(renamed, [], self._converters)
        parameter = self._prefixed(parameter)
        if parameter not in self._state and self._prefixed(stored) in self._state:
            parameter, pattern, renamed = self._prefixed(stored), None, stored
        if parameter not in self._state:
            self.others.append(stored)
        elif pattern is None:
            self.groups.append(Group({renamed: stored}, [parameter]))
        else:
            self._sort_fused(stored, renamed, parameter, pattern)

    def _sort_fused(self, stored: str, renamed: str, parameter: str, pattern: str) -> None:
        group = self._fused.get(parameter)
        if group is None:
            converter = next(rule for rule in self._converters if pattern in rule.source_patterns)
            group = self._fused[parameter] = Group(parameters=self._parts(parameter, converter), converter=converter)
            self.groups.append(group)
        group.stored[self._prefixed(renamed, parameter)] = stored

    def _parts(self, first: str, converter: Any) -> list[str]:
        """Name all parameters that a rule makes, of which transformers names the first."""
        head: str = converter.target_patterns[0]
        return [first.replace(head, pattern, 1) for pattern in converter.target_patterns]

    def _prefixed(self, name: str, like: str = "") -> str:
        """Add or take off the prefix of the model's body, as transformers does for files saved with or without it."""
        prefix = str(self._model.base_model_prefix)
        if like:
            has, wants = name.startswith(f"{prefix}."), like.startswith(f"{prefix}.")
            return f"{prefix}.{name}" if wants and not has else name.removeprefix(f"{prefix}.") if has and not wants else name
        bare = name.removeprefix(f"{prefix}.")
        if bare != name and bare in self._state:
            return bare
        return f"{prefix}.{name}" if f"{prefix}.{name}" in self._state else name

    def _apart(self, group: Group, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        import torch

        reverse = copy.deepcopy(group.converter).reverse_transform()
        like = next(iter(tensors.values()))
        target = ""
        for parameter in group.parameters:
            shape = tuple(self._state[parameter].shape)
            tensor = tensors.get(parameter)
            target, pattern = reverse.rename_source_key(parameter)
            given = torch.zeros(shape, dtype=like.dtype, device=like.device) if tensor is None else tensor
            reverse.add_tensor(target, parameter, pattern, given)
        found: dict[str, Any] = reverse.convert(target, model=self._model, config=self._model.config)
        return {name: part[0] if isinstance(part, list) else part for name, part in found.items()}
