from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter, TokenType
from transformers.integrations import gguf as gguf_in_transformers

from lora_studio.core.errors import InputError
from lora_studio.models.gguf_header import read_gguf
from lora_studio.models.gguf_tokenizer import gguf_tokenizer

MARKS = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
KEPT = "<think>"
MERGES = ["1 2", "12 3", "Ġ w", "o r", "Ġw or", "N O", "' S"]
ONES = sorted({*"'123456789ĠworldNOtS<>|think_ims"})
BYTE_PAIRS = [*MARKS, *ONES, *(merge.replace(" ", "") for merge in MERGES), KEPT, "Ġworld"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PIECES = ["<unk>", "<s>", "</s>", *BYTES, "▁", "w", "o", "r", "▁w", "or", "▁wor"]


def kind_of(token: str) -> TokenType:
    if token == KEPT:
        return TokenType.USER_DEFINED
    return TokenType.CONTROL if token in MARKS else TokenType.BYTE if token in BYTES else TokenType.NORMAL


def write_vocabulary(
    file: Path,
    family: str = "llama",
    kind: str = "gpt2",
    tokens: Iterable[str] = BYTE_PAIRS,
    **settings: Any,
) -> Path:
    """Write a GGUF file that holds a vocabulary and nothing else; settings are those below `tokenizer.ggml`."""
    writer = GGUFWriter(file, family)
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_head_count(1)
    writer.add_tokenizer_model(kind)
    writer.add_token_list(list(tokens))
    writer.add_token_types([kind_of(token) for token in tokens])
    if kind == "gpt2":
        writer.add_token_merges(MERGES)
    else:
        writer.add_token_scores([-float(number) for number, _ in enumerate(tokens)])
    for name, value in settings.items():
        write = writer.add_bool if isinstance(value, bool) else writer.add_uint32 if isinstance(value, int) else writer.add_string
        write(f"tokenizer.ggml.{name}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def read(file: Path) -> Any:
    return gguf_tokenizer(file, read_gguf(file))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt2", "phi3", "granite"])
def test_special_tokens_are_those_the_file_names_in_every_family(family: str, tmp_path: Path) -> None:
    named = {"bos_token_id": 3, "eos_token_id": 4, "padding_token_id": 0}
    tokenizer = read(write_vocabulary(tmp_path / "a.gguf", family, pre="qwen2", **named))
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token) == (*MARKS[3:5], "<pad>", None)
    assert len(tokenizer) == len(BYTE_PAIRS), "a token the model has no embedding for"


def test_a_special_token_that_the_file_does_not_name_is_none(tmp_path: Path) -> None:
    tokenizer = read(write_vocabulary(tmp_path / "a.gguf", "qwen3", pre="qwen2", eos_token_id=4))
    assert (tokenizer.bos_token, tokenizer.eos_token) == (None, "<|im_end|>")


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({"pre": "qwen2"}, []),
        ({"pre": "qwen2", "add_bos_token": True}, [1]),
        ({"pre": "qwen2", "add_bos_token": False}, []),
        ({"pre": "llama-bpe"}, [1]),
        ({"pre": "llama-bpe", "add_bos_token": False}, []),
    ],
)
def test_a_text_begins_as_llama_cpp_begins_it(settings: dict[str, Any], first: list[int], tmp_path: Path) -> None:
    tokenizer = read(write_vocabulary(tmp_path / "a.gguf", bos_token_id=1, eos_token_id=2, **settings))
    assert tokenizer("w").input_ids == [*first, BYTE_PAIRS.index("w")]


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", ["123", "4", "Ġwor", "l", "d", "Ġ", "1", "NO", "'", "S"]),
        ("smollm", ["1", "2", "3", "4", "Ġwor", "l", "d", "Ġ", "1", "NO", "'", "S"]),
        ("qwen2", ["1", "2", "3", "4", "Ġwor", "l", "d", "Ġ", "1", "NO", "'S"]),
        ("llama-bpe", ["123", "4", "Ġworld", "Ġ", "1", "NO", "'S"]),
    ],
)
def test_texts_are_split_as_the_file_says(pre: str, pieces: list[str], tmp_path: Path) -> None:
    tokenizer = read(write_vocabulary(tmp_path / "a.gguf", pre=pre, add_bos_token=False, bos_token_id=1, eos_token_id=2))
    assert tokenizer.tokenize("1234 world 1NO'S") == pieces


def test_marks_and_pieces_that_are_kept_whole_are_kept_whole(tmp_path: Path) -> None:
    tokenizer = read(write_vocabulary(tmp_path / "a.gguf", "qwen3", pre="qwen2", eos_token_id=4))
    ids = tokenizer(f"w<|im_end|>{KEPT}").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["w", "<|im_end|>", KEPT]
    assert tokenizer.decode(ids, skip_special_tokens=True) == f"w{KEPT}"


@pytest.mark.parametrize(("settings", "first"), [({}, [1]), ({"add_bos_token": False}, [])])
def test_llamas_sentencepiece_has_the_files_special_tokens(settings: dict[str, Any], first: list[int], tmp_path: Path) -> None:
    named = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    tokenizer = read(write_vocabulary(tmp_path / "a.gguf", "llama", "llama", PIECES, **named, **settings))
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == ("<s>", "</s>", "<unk>")
    assert tokenizer("wor").input_ids == [*first, PIECES.index("▁wor")]


@pytest.mark.skipif(hasattr(gguf_in_transformers, "convert_gguf_tokenizer"), reason="this transformers reads every vocabulary")
@pytest.mark.parametrize(
    ("family", "kind", "pre"), [("gemma2", "llama", "default"), ("phi3", "llama", "default"), ("llama", "gpt2", "tekken")]
)
def test_a_vocabulary_that_an_old_transformers_reads_wrongly_is_refused(family: str, kind: str, pre: str, tmp_path: Path) -> None:
    tokens = PIECES if kind == "llama" else BYTE_PAIRS
    file = write_vocabulary(tmp_path / "a.gguf", family, kind, tokens, pre=pre, bos_token_id=1, eos_token_id=2)
    with pytest.raises(InputError, match=r"does not read as it is") as refused:
        read(file)
    assert refused.value.hint.startswith("Update transformers to 5.18")
