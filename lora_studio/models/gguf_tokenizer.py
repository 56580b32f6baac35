"""The tokenizer that a GGUF file's settings describe.

Vocabularies of bytes are read here, by what the file says and llama.cpp's rules: its special tokens, the marks it keeps whole, how it
splits. transformers reads the others from 5.18 on. 5.17 takes the begin token for the end token in Llama's vocabularies and names the rest
by the family's habit, whatever the file says, so only Llama's SentencePiece is taken from it, and mended; others are refused there, since
wrong tokens show nowhere but in the answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_studio.core.errors import InputError
from lora_studio.models.check import FIELD
from lora_studio.models.gguf_header import GgufHeader, Value, read_gguf_arrays

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

_BYTE_PAIRS, _SENTENCEPIECE = "gpt2", "llama"
_CONTROL, _USER_DEFINED = 3, 4  # llama.cpp's types of tokens: marks of a chat, and pieces that are kept whole
_NAMES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}

_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS_AND_SPACES = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA3 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_SIGNS_AND_SPACES}"
_QWEN2 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_SIGNS_AND_SPACES}"
# How texts are split before pairs are joined, by llama.cpp's names (`tokenizer.ggml.pre`); where it is empty, as GPT-2 does.
_LLAMA3_NAMES = ("llama3", "llama-v3", "llama-bpe")
_DIGITS_APART = ("smollm", "starcoder", "refact", "command-r")
_SPLITS = {
    **dict.fromkeys(("", "default", "gpt-2", "olmo", "phi-2", "mpt", "roberta-bpe", *_DIGITS_APART), ""),
    **dict.fromkeys((*_LLAMA3_NAMES, "falcon3", "smaug-bpe", "dbrx"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), _QWEN2),
}


def gguf_tokenizer(file: Path, header: GgufHeader) -> PreTrainedTokenizerFast:
    """Read a file's tokenizer, with its special tokens and its chat template.

    Args:
        file: The GGUF file.
        header: What it says of itself.

    Raises:
        InputError: The installed transformers does not read such a vocabulary right, and neither do we.
    """
    from transformers.integrations import gguf

    kind, split = _setting(header, "model"), str(_setting(header, "pre") or "")
    if kind == _BYTE_PAIRS and split in _SPLITS:
        return _with_special_tokens(_byte_pairs(file, split), file, header)
    if hasattr(gguf, "convert_gguf_tokenizer"):  # 5.18 and later
        return _as_transformers_reads_it(file)
    if kind == _SENTENCEPIECE and header.architecture == "llama":
        return _with_special_tokens(_as_transformers_reads_it(file).backend_tokenizer, file, header)
    raise InputError(
        f"{file} holds a vocabulary of the kind {kind}, split as {split or header.architecture} does, "
        "which the installed transformers does not read as it is.",
        "Update transformers to 5.18 or later, or choose the model's safetensors version.",
        FIELD,
    )


def _as_transformers_reads_it(file: Path) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(str(file.parent), gguf_file=file.name, local_files_only=True)


def _byte_pairs(file: Path, split: str) -> Tokenizer:
    """Make a tokenizer of bytes from the vocabulary and the merges of a file."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    tokens, merges = read_gguf_arrays(file, "tokenizer.ggml.tokens", "tokenizer.ggml.merges")
    vocabulary = {str(token): number for number, token in enumerate(tokens)}
    pairs = [(left, right) for left, _, right in (str(merge).partition(" ") for merge in merges)]
    # Llama 3 takes a word that is a token as it is, though no merges lead there.
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=split in _LLAMA3_NAMES))
    pattern = _SPLITS[split]
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if split in _DIGITS_APART else []
    steps += [pre_tokenizers.Split(Regex(pattern), "isolated")] if pattern else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not pattern)])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _with_special_tokens(tokenizer: Tokenizer, file: Path, header: GgufHeader) -> PreTrainedTokenizerFast:
    """Name the special tokens that a file names, and keep whole what it says is to be kept whole."""
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    tokens, kinds = read_gguf_arrays(file, "tokenizer.ggml.tokens", "tokenizer.ggml.token_type")
    for kind, add in ((_CONTROL, tokenizer.add_special_tokens), (_USER_DEFINED, tokenizer.add_tokens)):
        add([AddedToken(str(token), normalized=False, special=kind == _CONTROL) for token, its in zip(tokens, kinds) if its == kind])
    flags = {name: bool(value) for name in ("add_bos_token", "add_eos_token") if (value := _setting(header, name)) is not None}
    if _setting(header, "model") == _SENTENCEPIECE or _setting(header, "pre") in _LLAMA3_NAMES:
        flags.setdefault("add_bos_token", True)  # llama.cpp's rule for files that say nothing
    named: dict[str, Any] = {name: _named(tokens, _setting(header, f"{key}_token_id")) for name, key in _NAMES.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=header.settings.get("tokenizer.chat_template"), **named, **flags
    )


def _setting(header: GgufHeader, name: str) -> Value | None:
    return header.settings.get(f"tokenizer.ggml.{name}")


def _named(tokens: list[Value], number: Value | None) -> str | None:
    return str(tokens[number]) if isinstance(number, int) and 0 <= number < len(tokens) else None
