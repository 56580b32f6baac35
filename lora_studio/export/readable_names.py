"""The weights of an exported adapter, under names by which PEFT finds every module again (see `models.peft_names`).

Where PEFT would take a name for another, the module's name on disk is written instead, and the header's metadata says what it is called in
memory, by which everything here reads the file as before.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from lora_studio.adapters.saved_adapter import OWN_NAMES, WEIGHTS_NAME, SavedAdapter, parted
from lora_studio.core.errors import InputError
from lora_studio.core.files import sha256_of
from lora_studio.export.merge.renamed_tensors import Renamed, write_renamed
from lora_studio.models.peft_names import names_for_peft

if TYPE_CHECKING:
    from lora_studio.export.merge.changes import Changes

_INSTEAD = "Export the merged model, which has it, or train again without this target."


def refuse_unread(changes: Changes) -> None:
    """Refuse an adapter that PEFT would load without some of its modules, under whatever names.

    Raises:
        InputError: It is one; module and tensor are named.
    """
    lost = [key for key, name in _renames(changes).items() if not name]
    if not lost:
        return
    modules = sorted({found[0] for found in map(parted, lost) if found})
    more = f" and {len(modules) - 1} more" if len(modules) > 1 else ""
    message = f"PEFT would load the adapter without {modules[0]}{more}: it takes the name of {lost[0]} for another one."
    raise InputError(message, _INSTEAD, "kind")


def write_readable(changes: Changes, folder: Path) -> list[str]:
    """Write an adapter's weights into a folder, as they are where PEFT reads all names; give what is wrong with the written file.

    Raises:
        OSError: The disk does not take it.
    """
    adapter, renames = changes.adapter, _renames(changes)
    source, target = adapter.folder / WEIGHTS_NAME, folder / WEIGHTS_NAME
    if not renames:  # also not those that an earlier export wrote otherwise: they are the same ones
        shutil.copyfile(source, target)
        return [] if sha256_of(source) == sha256_of(target) else [WEIGHTS_NAME]
    tensors = [Renamed(renames.get(key, key), adapter.stored.get(key, key)) for key in adapter.header.tensors]
    write_renamed(source, target, tensors, {OWN_NAMES: json.dumps({name: key for key, name in renames.items()})})
    return _differing(adapter, folder)


def _renames(changes: Changes) -> dict[str, str]:
    """Return the name to write for each key that PEFT would misread; empty where it would misread every name."""
    return names_for_peft(changes.model, [key for key in changes.adapter.header.tensors if ".lora_" in key])


def _differing(adapter: SavedAdapter, folder: Path) -> list[str]:
    """Name the tensors that are not bit for bit the adapter's in the written file."""
    written = SavedAdapter.open(folder)
    if written.header.tensors.keys() != adapter.header.tensors.keys():
        return [WEIGHTS_NAME]
    with adapter.reading() as tensors, written.reading() as found:
        return [key for key in adapter.header.tensors if not tensors.get(key).equal(found.get(key))]
