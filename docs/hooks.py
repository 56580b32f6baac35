"""Links from the pages to the code: a built page names the file, as the code is no part of the site; a missing file ends the build."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_TO_CODE = re.compile(r"\[([^\]]*)\]\((?:\.\./)+([^)#]*)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Take the links out of the docs' folder, once what they lead to was seen.

    Raises:
        FileNotFoundError: It is not there.
    """

    def told(found: re.Match[str]) -> str:
        if not (ROOT / found[2]).exists():
            raise FileNotFoundError(f"{page.file.src_path}: {found[2]}")
        return found[1] if found[1].startswith("`") else f"{found[1]} (`{found[2]}`)"

    return _TO_CODE.sub(told, markdown)
