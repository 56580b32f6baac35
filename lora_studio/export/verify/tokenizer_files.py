"""What stands beside a merged model's weights: tokenizer, chat template, generation settings, licence; copied, then looked at."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_studio.adapters.vocabulary import own_tokenizer
from lora_studio.core.config import RunConfig
from lora_studio.core.errors import StudioError
from lora_studio.data.templates.template_source import adapters_template, choose_template, with_variables
from lora_studio.models.check import read_json
from lora_studio.models.load import load_tokenizer
from lora_studio.models.spellings import CHAT_TEMPLATE_FILE, mend_tokenizer

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    CHAT_TEMPLATE_FILE,
)
_PROBE = "Dear support,\n\n  it's no. 12345: naïve café, 你好 🙂\tend. "
_BESIDE = ("generation_config.json", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt")


@dataclass(frozen=True)
class TokenizerFiles:
    """What an artefact's tokenizer has to be.

    Attributes:
        tokenizer: As it is loaded from where it is copied from.
        template: The chat template that the adapter was trained with; None where there is none.
        template_from: Whose it is, in words.
        end_ids: Token ids at which generating ends.
    """

    tokenizer: Any
    template: str | None
    template_from: str
    end_ids: tuple[int, ...]


def tokenizer_files_of(base: Path, adapter: Path, config: RunConfig | None) -> TokenizerFiles:
    """Find the tokenizer and the template of base + adapter: the adapter's own where it carries one, the run's template where it has one.

    Raises:
        InputError: There is no tokenizer that can be loaded.
    """
    folder = _tokenizer_folder(base, adapter)
    tokenizer = load_tokenizer(folder)
    if config is not None and (config.data.chat_template or config.data.chat_template_kwargs):
        chosen, variables = choose_template(config.data.chat_template, tokenizer), config.data.chat_template_kwargs
        told = "".join(f", {name} = {value} unless told otherwise" for name, value in variables.items())
        text = chosen.text if chosen.text is None else with_variables(chosen.text, variables)
        return TokenizerFiles(tokenizer, text, chosen.described + told, _end_ids(base, tokenizer))
    if config is None and folder == base and (text := adapters_template(adapter)):
        return TokenizerFiles(tokenizer, text, "the adapter's chat template", _end_ids(base, tokenizer))
    own: Any = tokenizer.chat_template
    told = "no chat template" if not own else "the base model's chat template" if folder == base else "the adapter's chat template"
    return TokenizerFiles(tokenizer, own if isinstance(own, str) else None, told, _end_ids(base, tokenizer))


def copy_template(folder: Path, tokenizer_files: TokenizerFiles) -> None:
    """Put the template that an adapter was trained with into its folder, where it is not the tokenizer's own."""
    if tokenizer_files.template is not None and tokenizer_files.template != tokenizer_files.tokenizer.chat_template:
        (folder / CHAT_TEMPLATE_FILE).write_text(tokenizer_files.template, encoding="utf-8")


def copy_tokenizer_files(base: Path, adapter: Path, folder: Path, tokenizer_files: TokenizerFiles) -> None:
    """Copy tokenizer and settings into an artefact's folder, with the template that the adapter was trained with."""
    source = _tokenizer_folder(base, adapter)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    for name in _BESIDE:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    if tokenizer_files.template is not None:
        (folder / CHAT_TEMPLATE_FILE).write_text(tokenizer_files.template, encoding="utf-8")
    mend_tokenizer(folder)


def copy_own_tokenizer(adapter: Path, folder: Path) -> None:
    """Copy an adapter's own tokenizer, where it carries one, beside a copy of it."""
    for name in TOKENIZER_FILES if own_tokenizer(adapter) else ():
        if (adapter / name).is_file():
            shutil.copyfile(adapter / name, folder / name)


def tokenizer_fault(folder: Path, tokenizer_files: TokenizerFiles, config: Mapping[str, Any]) -> str:
    """Say what is wrong with an artefact's settings, tokenizer, chat template or end token; empty when nothing is.

    Args:
        folder: The artefact's.
        tokenizer_files: What they must be.
        config: What its `config.json` must be: a head that is tied again, say, changes no tensor on disk.
    """
    found_config = read_json(folder / "config.json")
    if found_config != config:
        changed = sorted(key for key in found_config.keys() | config.keys() if found_config.get(key) != config.get(key))
        return f"its config.json is not what was written: {', '.join(changed)}"
    try:
        found = load_tokenizer(folder)
    except StudioError as error:
        return f"its tokenizer cannot be loaded: {error.message}"
    if tokenizer_files.template is not None and found.chat_template != tokenizer_files.template:
        return f"it does not carry {tokenizer_files.template_from}"
    if found.get_vocab() != tokenizer_files.tokenizer.get_vocab():
        return "its tokenizer has another vocabulary than the base's"
    if _probe_ids(found) != _probe_ids(tokenizer_files.tokenizer):
        return "its tokenizer splits a text otherwise than the base's"
    ends = _end_ids(folder, found)
    if ends != tokenizer_files.end_ids:
        return f"it ends at the tokens {list(ends)}, the base at {list(tokenizer_files.end_ids)}"
    return ""


def _probe_ids(tokenizer: Any) -> list[int]:
    """Split a text with words, numbers, line ends, other scripts and the tokenizer's special tokens."""
    return list(tokenizer(_PROBE + " ".join(sorted(tokenizer.all_special_tokens))).input_ids)


def end_token_in_words(tokenizer_files: TokenizerFiles) -> str:
    """Say at which tokens the artefact ends."""
    return (
        ", ".join(f"{tokenizer_files.tokenizer.convert_ids_to_tokens(number)} ({number})" for number in tokenizer_files.end_ids) or "none"
    )


def _tokenizer_folder(base: Path, adapter: Path) -> Path:
    """Say whose tokenizer it is: an adapter that added tokens carries its own."""
    return adapter if own_tokenizer(adapter) else base


def _end_ids(folder: Path, tokenizer: Any) -> tuple[int, ...]:
    """Return the tokens at which generating ends: those of the generation settings, and the tokenizer's own, which servers go by."""
    path = folder / "generation_config.json"
    told: Any = read_json(path).get("eos_token_id") if path.is_file() else None
    listed = told if isinstance(told, list) else [told]
    return tuple(sorted({number for number in (*listed, tokenizer.eos_token_id) if isinstance(number, int)}))
