"""What the doctor waits for has a limit, and what did not answer is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_studio.cli.commands import doctor


def test_a_qt_that_does_not_load_is_given_up_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "PySide6").mkdir()
    (tmp_path / "PySide6" / "__init__.py").write_text("import time; time.sleep(60)\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "_QT_SECONDS", 0.2)
    assert doctor._window_problem().startswith("PySide6 did not load within ")
