"""A model's tokenizer, as data is tokenized with it."""

from __future__ import annotations

from typing import Any

from lora_studio.core.errors import InputError


def read_tokenizer(model_folder: str) -> Any:
    """Return the tokenizer from a model's folder; code in the folder is not run.

    Raises:
        InputError: The folder holds no tokenizer that can be read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model_folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{model_folder} has no tokenizer that can be read: {reason}",
            "Choose a folder with tokenizer.json.",
            "model.name_or_path",
        ) from error
