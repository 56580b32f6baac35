"""What the window looked like when it was closed: place, splitters, page, theme. Lost or damaged, it starts afresh."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from lora_studio.core.paths import studio_paths


@dataclass
class WindowState:
    """The remembered look.

    Attributes:
        geometry: Qt's own record of place and size, base 64; empty before the first close.
        columns: Widths of left, middle and right in pixels; empty for the usual ones.
        left_docked: The left panel is open where there is room.
        right_docked: The right panel is open where there is room.
        page: Id of the page in front.
        run: Folder of the run shown; empty for none.
        queue: Folders of the runs that waited for the device, the next one first.
        host: Where runs are started: `thread` or `process`.
        theme: `system`, `light` or `dark`.
        scale: Text size as a factor of the usual one.
    """

    geometry: str = ""
    columns: tuple[int, ...] = ()
    left_docked: bool = True
    right_docked: bool = True
    page: str = "train"
    run: str = ""
    queue: tuple[str, ...] = ()
    host: str = "thread"
    theme: str = "system"
    scale: float = 1.0

    @classmethod
    def load(cls) -> WindowState:
        """Read it; what is missing or of another type is left at its usual value."""
        try:
            saved = json.loads(_path().read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return cls()
        usual = cls()
        if not isinstance(saved, dict):
            return usual
        for field in fields(cls):
            value: object = saved.get(field.name)  # type: ignore[reportUnknownMemberType]
            if field.name == "columns" and isinstance(value, list):
                usual.columns = tuple(int(width) for width in value if isinstance(width, int))
            elif field.name == "queue" and isinstance(value, list):
                usual.queue = tuple(path for path in value if isinstance(path, str))
            elif type(value) is type(getattr(usual, field.name)):
                setattr(usual, field.name, value)
        return usual

    def save(self) -> None:
        """Write it.

        Raises:
            OSError: The settings folder cannot be written.
        """
        from lora_studio.core.files import write_atomically

        _path().parent.mkdir(parents=True, exist_ok=True)
        write_atomically(_path(), json.dumps(asdict(self), indent=1).encode())


def _path() -> Path:
    return studio_paths().settings / "window.json"
