"""Models of known shapes with random weights: a benchmark needs their sizes, not what they have learned."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

from lora_studio.core.control import TaskContext
from lora_studio.core.paths import HOME_VARIABLE
from lora_studio.models.prepare import prepare
from lora_studio.models.sources import find_model

# hidden, intermediate, layers, heads, key heads: as Llama 3.2 1B and Llama 3.1 8B have them; "tiny" tries the benchmarks themselves out.
SHAPES = {
    "tiny": (64, 176, 2, 4, 2),
    "1b": (2048, 8192, 16, 32, 8),
    "8b": (4096, 14336, 32, 32, 8),
}


@contextlib.contextmanager
def starter_in_a_home_of_its_own() -> Generator[tuple[Path, Path]]:
    """Yield the starter model's folder, and a temporary one in which the studio keeps all it keeps."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ[HOME_VARIABLE] = str(folder / "home")
        list(prepare(TaskContext(), "starter"))
        starter = find_model("starter").path
        assert starter is not None
        yield starter, folder


def llama_config(shape: str, words: int) -> Any:
    """Return the config of a Llama of a shape, with so many words in its vocabulary, held in bfloat16."""
    from transformers import LlamaConfig

    hidden, intermediate, layers, heads, key_heads = SHAPES[shape]
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        vocab_size=words,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )


def random_model(shape: str, tokenizer: Path, folder: Path) -> Path:
    """Write a Llama of a shape, in bfloat16, with the tokenizer and chat template of another model's folder; give its folder."""
    import torch
    from transformers import LlamaForCausalLM

    from lora_studio.models.load import load_tokenizer

    torch.manual_seed(0)
    LlamaForCausalLM(llama_config(shape, len(load_tokenizer(tokenizer)))).to(torch.bfloat16).save_pretrained(folder)
    for path in tokenizer.iterdir():
        if path.suffix in (".json", ".jinja", ".txt") and not (folder / path.name).exists():
            shutil.copy(path, folder / path.name)
    return folder
