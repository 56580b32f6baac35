"""Merges killed with signal 9, and disks that fill: the target is whole or absent, its source untouched.

`LORA_STUDIO_KILLS` says how many are killed.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lora_studio.core.errors import StudioError
from lora_studio.core.files import sha256_of
from tests.export.adapters import make_adapter, run_export
from tests.tiny import save_tiny_model

if TYPE_CHECKING:
    from tests.small_disk import SmallDisk

MOMENTS = int(os.environ.get("LORA_STUDIO_KILLS", "50"))


def merge_once(adapter: str, target: str, overwrite: bool) -> None:
    """Export a merged model."""
    import torch

    torch.set_num_threads(1)
    run_export(source=adapter, kind="merged", to=target, dtype="float32", overwrite=overwrite, check="tensors")


@pytest.fixture(scope="module")
def children() -> ForkServerContext:
    """Children that have torch, transformers and peft already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lora_studio.export.task", "transformers.models.llama.modeling_llama", __name__])
    return context


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base in several shards' worth of tensors and an adapter on all of its layers."""
    root = tmp_path_factory.mktemp("pair")
    base = save_tiny_model(root / "base", "llama", hidden_size=128, intermediate_size=384, num_hidden_layers=4)
    return base, make_adapter(base, root / "adapter", target_modules="all-linear")


def digests(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no signal 9")
def test_a_merge_killed_at_random_moments_leaves_its_target_whole_or_absent(
    children: ForkServerContext, pair: tuple[Path, Path], tmp_path: Path, say: Callable[[str], None]
) -> None:
    base, adapter = pair
    sources = digests(base), digests(adapter)
    seconds = timed(children, adapter, tmp_path / "warm", tmp_path / "whole")
    whole = digests(tmp_path / "whole")
    numbers, target = random.Random(), tmp_path / "killed/merged"
    counts = {"absent": 0, "new": 0, "kept": 0}
    kills = 0
    while kills < MOMENTS:
        stood = target.exists()
        child = children.Process(target=merge_once, args=(str(adapter), str(target), True))
        child.start()
        child.join(numbers.uniform(0.0, seconds * 1.05))
        child.kill()
        child.join(30)
        assert child.exitcode in (0, -signal.SIGKILL)
        kills += child.exitcode != 0
        if target.exists():
            assert digests(target) == whole
        counts["kept" if stood and target.exists() else "new" if target.exists() else "absent"] += 1
        if child.exitcode == 0 and numbers.random() < 0.5:  # half of the time the next one replaces it
            shutil.rmtree(target)
    assert (digests(base), digests(adapter)) == sources
    timed(children, adapter, tmp_path / "killed/other")
    shutil.rmtree(target, ignore_errors=True)
    timed(children, adapter, target)
    assert sorted(path.name for path in target.parent.iterdir()) == ["merged", "other"]  # what the killed ones left is gone
    say(f"{kills} merges killed; afterwards the target was {counts}")


def timed(children: ForkServerContext, adapter: Path, *targets: Path) -> float:
    """Merge into each target, one after the other, and give the seconds that the last one took."""
    seconds = 0.0
    for target in targets:
        began = time.monotonic()
        child = children.Process(target=merge_once, args=(str(adapter), str(target), False))
        child.start()
        child.join(120)
        assert child.exitcode == 0
        seconds = time.monotonic() - began
    return seconds


@pytest.mark.parametrize("kind", ["merged", "adapter"])
def test_a_disk_that_fills_leaves_nothing_and_says_so(kind: str, pair: tuple[Path, Path], small_disk: SmallDisk) -> None:
    base, adapter = pair
    sources = digests(base), digests(adapter)
    small_disk.fill(small_disk.folder / "none")
    before = sorted(path.name for path in small_disk.folder.iterdir())
    with pytest.raises(StudioError, match=r"failed: |GB free|Cannot write") as error:
        run_export(source=str(adapter), kind=kind, to=str(small_disk.folder / "made"), check="tensors")
    assert error.value.hint
    assert sorted(path.name for path in small_disk.folder.iterdir()) == before
    assert (digests(base), digests(adapter)) == sources


def test_a_disk_that_fills_while_a_merge_is_written_leaves_nothing(
    pair: tuple[Path, Path], small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, adapter = pair
    monkeypatch.setattr("lora_studio.export.task.check_space", lambda _target, _needed: small_disk.fill(small_disk.folder / "none"))
    before = sorted(path.name for path in small_disk.folder.iterdir())
    with pytest.raises(StudioError, match=r"failed: |Cannot write"):
        run_export(source=str(adapter), kind="merged", to=str(small_disk.folder / "made"), check="tensors")
    small_disk.make_room()
    assert sorted(path.name for path in small_disk.folder.iterdir()) == before


def test_an_earlier_export_survives_one_that_fails(pair: tuple[Path, Path], small_disk: SmallDisk) -> None:
    _, adapter = pair
    target = small_disk.folder / "made"
    run_export(source=str(adapter), kind="adapter", to=str(target), check="tensors")
    there = digests(target)
    small_disk.fill(small_disk.folder / "none")
    with pytest.raises(StudioError):
        run_export(source=str(adapter), kind="adapter", to=str(target), overwrite=True, check="tensors")
    assert digests(target) == there
