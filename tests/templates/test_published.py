from __future__ import annotations

from pathlib import Path

import pytest

from tests.templates.kinds import KINDS
from tests.templates.marks import published
from tests.templates.table import WRONG, look_at

_SAMPLE = 12  # templates, others in each release of the list
_PATHS = published()


@pytest.mark.skipif(not _PATHS, reason="no published templates stand beside the checkout")
@pytest.mark.parametrize("path", _PATHS[:: max(1, len(_PATHS) // _SAMPLE)], ids=lambda path: path.stem)
def test_a_published_template_loses_nothing_in_silence(path: Path, tmp_path: Path) -> None:
    tally = look_at(path, tmp_path)
    assert {column: tally.counts[column] for column in WRONG} == dict.fromkeys(WRONG, 0), tally.notes
    assert tally.counts["rows"] == len(KINDS)
