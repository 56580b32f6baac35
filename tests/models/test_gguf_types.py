"""The types of tensors that GGUF files may hold, by the package that llama.cpp's authors publish."""

from __future__ import annotations

import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from lora_studio.models.gguf_header import TENSOR_TYPES

NEVER_STORED = {"Q8_1"}
"""Only computed with; the package counts two numbers of four bytes a block, ggml's own struct has two of two."""


@pytest.mark.parametrize("kind", GGML_QUANT_SIZES, ids=lambda kind: kind.name)
def test_a_type_has_its_name_and_size(kind: GGMLQuantizationType) -> None:
    name, elements, size = TENSOR_TYPES[kind.value]
    assert name == kind.name
    if name not in NEVER_STORED:
        assert (elements, size) == GGML_QUANT_SIZES[kind]


def test_no_type_is_known_here_alone() -> None:
    assert set(TENSOR_TYPES) == {kind.value for kind in GGML_QUANT_SIZES}
