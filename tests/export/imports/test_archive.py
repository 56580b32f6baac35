"""Taking an adapter out of folders and archives, hostile ones among them."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_studio.core.errors import Cancelled, InputError
from lora_studio.export.imports.adapter_files import take_adapter
from tests.export.handmade import write_adapter

Maker = Callable[[Path, dict[str, bytes]], Path]
NAMES = {"adapter_config.json", "adapter_model.safetensors"}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    folder = write_adapter(tmp_path / "made")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "into"
    folder.mkdir()
    return folder


def zipped(path: Path, files: dict[str, bytes], **flags: int) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.filename = info.orig_filename = name  # as it is, a null byte or a backslash too
            info.compress_type = zipfile.ZIP_DEFLATED
            for attribute, value in flags.items():
                setattr(info, attribute, value)
            archive.writestr(info, content)
    return path


def tarred(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def make_zip(folder: Path, files: dict[str, bytes]) -> Path:
    return zipped(folder / "adapter.zip", files)


def make_tar(folder: Path, files: dict[str, bytes]) -> Path:
    return tarred(folder / "adapter.tar.gz", files)


def make_folder(folder: Path, files: dict[str, bytes]) -> Path:
    made = folder / "adapter"
    made.mkdir()
    for name, content in files.items():
        (made / name).write_bytes(content)
    return made


ARCHIVES = pytest.mark.parametrize("make", [make_zip, make_tar])


@pytest.mark.parametrize("make", [make_zip, make_tar, make_folder])
def test_only_the_files_of_an_adapter_are_taken(make: Maker, files: dict[str, bytes], into: Path, tmp_path: Path) -> None:
    beside = {"tokenizer.json": b"{}", "optimizer.pt": b"\x80pickle", "run.sh": b"rm -rf ~", "README.md": b"# mine"}
    left = take_adapter(make(tmp_path, {**files, **beside}), into)
    assert left == ["optimizer.pt", "run.sh"]
    assert {path.name for path in into.iterdir()} == NAMES | {"tokenizer.json", "README.md"}
    assert (into / "adapter_model.safetensors").read_bytes() == files["adapter_model.safetensors"]


@ARCHIVES
def test_an_adapter_in_a_folder_of_its_own_is_found(make: Maker, files: dict[str, bytes], into: Path, tmp_path: Path) -> None:
    inside = {f"a/lora/{name}": content for name, content in files.items()}
    take_adapter(make(tmp_path, {**inside, "a/README.md": b"of the whole"}), into)
    assert {path.name for path in into.iterdir()} == NAMES


@ARCHIVES
def test_several_adapters_in_one_archive_are_not_chosen_from(make: Maker, files: dict[str, bytes], into: Path, tmp_path: Path) -> None:
    inside = {f"step-{number}/{name}": content for name, content in files.items() for number in (1, 2)}
    with pytest.raises(InputError, match="holds 2 adapters"):
        take_adapter(make(tmp_path, inside), into)


@ARCHIVES
@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "C:/evil", "C:evil", "..\\evil", "a\\..\\evil", "\\\\host\\evil"])
def test_names_that_lead_out_are_refused_whatever_else_is_in_it(
    make: Maker, name: str, files: dict[str, bytes], into: Path, tmp_path: Path
) -> None:
    before = set(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="leads out of it"):
        take_adapter(make(tmp_path, {**files, name: b"evil"}), into)
    assert {path for path in tmp_path.rglob("*") if not path.name.startswith("adapter.")} == before


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_a_zip_with_a_link_or_a_device_is_refused(kind: int, files: dict[str, bytes], into: Path, tmp_path: Path) -> None:
    path = zipped(tmp_path / "adapter.zip", {**files, "tokenizer.json": b"/etc/passwd"}, external_attr=(kind | 0o777) << 16)
    with pytest.raises(InputError, match="is a link or a device"):
        take_adapter(path, into)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_tar_with_a_link_or_a_device_is_refused(kind: bytes, files: dict[str, bytes], into: Path, tmp_path: Path) -> None:
    path = tarred(tmp_path / "adapter.tar", files)
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("adapter_model.safetensors")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(InputError, match="is a link or a device"):
        take_adapter(path, into)


@ARCHIVES
def test_what_would_grow_beyond_a_bound_is_refused_before_it_does(
    make: Maker,
    files: dict[str, bytes],
    into: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lora_studio.export.imports.archive._MOST_RATIO", 3)
    monkeypatch.setattr("lora_studio.export.imports.archive._SMALL", 1000)
    path = make(tmp_path, {**files, "tokenizer.json": b"one line like all others\n" * 8000})
    with pytest.raises(InputError, match="more than 3 times its size"):
        take_adapter(path, into)
    assert list(into.iterdir()) == []


@ARCHIVES
def test_too_many_files_are_refused(make: Maker, into: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="more than 10,000 files"):
        take_adapter(make(tmp_path, {f"f{number}": b"" for number in range(10_001)}), into)


def test_a_zip_that_holds_more_than_it_claims_is_refused(files: dict[str, bytes], into: Path, tmp_path: Path) -> None:
    path = zipped(tmp_path / "adapter.zip", files)
    raw = bytearray(path.read_bytes())
    size = len(files["adapter_model.safetensors"])
    where = raw.rindex(size.to_bytes(4, "little"))  # in the central directory
    raw[where : where + 4] = (size // 2).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"damaged|more than it claims|is cut"):
        take_adapter(path, into)


def test_an_encrypted_zip_is_refused(files: dict[str, bytes], into: Path, tmp_path: Path) -> None:
    path = zipped(tmp_path / "adapter.zip", files)
    raw = bytearray(path.read_bytes())
    central = raw.index(b"PK\x01\x02")
    raw[central + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"adapter\.zip is encrypted"):
        take_adapter(path, into)


@ARCHIVES
def test_a_file_that_is_in_it_twice_is_refused(make: Maker, files: dict[str, bytes], into: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is in it twice"):
        take_adapter(make(tmp_path, {**files, "./adapter_config.json": b"{}"}), into)


@ARCHIVES
def test_a_cut_archive_is_damaged(make: Maker, files: dict[str, bytes], into: Path, tmp_path: Path) -> None:
    path = make(tmp_path, files)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"damaged|neither a folder nor an archive"):
        take_adapter(path, into)


def test_a_flipped_bit_in_a_zip_is_damage(files: dict[str, bytes], into: Path, tmp_path: Path) -> None:
    path = zipped(tmp_path / "adapter.zip", files)
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"adapter_model.safetensors") + 60] ^= 4
    path.write_bytes(raw)
    with pytest.raises(InputError, match="damaged"):
        take_adapter(path, into)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ({"adapter_config.json", "adapter_model.bin"}, r"pickle \(adapter_model\.bin\)"),
        ({"adapter_config.json", "adapter_model.pt"}, r"pickle \(adapter_model\.pt\)"),
        ({"adapter_config.json"}, r"has no adapter_model\.safetensors"),
        ({"adapters.safetensors", "config.json"}, "adapter of mlx-lm"),
        ({"adapter.gguf"}, "cannot be turned back"),
        ({"notes.txt"}, r"no adapter_config\.json"),
    ],
)
@pytest.mark.parametrize("make", [make_zip, make_tar, make_folder])
def test_what_is_no_adapter_we_read_is_told_with_the_way_out(make: Maker, names: set[str], told: str, into: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told) as raised:
        take_adapter(make(tmp_path, dict.fromkeys(names, b"\x80\x04pickled")), into)
    assert raised.value.hint
    assert list(into.iterdir()) == []


def test_a_link_out_of_a_folder_is_not_followed(files: dict[str, bytes], into: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, files)
    (tmp_path / "secret").write_text("secret")
    (folder / "README.md").symlink_to(tmp_path / "secret")
    take_adapter(folder, into)
    assert not (into / "README.md").exists()
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.safetensors").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="is a link to elsewhere"):
        take_adapter(folder, into)


def test_a_snapshot_of_the_hubs_cache_is_a_folder_of_links(files: dict[str, bytes], into: Path, tmp_path: Path) -> None:
    root = tmp_path / "models--somebody--lora"
    snapshot = root / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (root / "blobs").mkdir()
    for name, content in files.items():
        (root / "blobs" / f"blob-{name}").write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/blob-{name}")
    take_adapter(snapshot, into)
    assert {path.name for path in into.iterdir()} == NAMES
    assert not any(path.is_symlink() for path in into.iterdir())


def test_a_huge_config_is_not_read(files: dict[str, bytes], into: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, {**files, "adapter_config.json": b" " * 2_000_000})
    with pytest.raises(InputError, match="claims 2,000,000 bytes"):
        take_adapter(folder, into)


def test_taking_can_be_ended_between_blocks(files: dict[str, bytes], into: Path, tmp_path: Path) -> None:
    def stop() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        take_adapter(make_zip(tmp_path, files), into, stop)


@pytest.mark.parametrize("name", ["missing.zip", "text.zip", "text.tar.gz", "text.rar"])
def test_what_cannot_be_opened_is_said(name: str, into: Path, tmp_path: Path) -> None:
    if name.startswith("text"):
        (tmp_path / name).write_text("no archive")
    with pytest.raises(InputError, match=r"There is no|damaged|neither a folder nor an archive"):
        take_adapter(tmp_path / name, into)
