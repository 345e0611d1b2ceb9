"""Outputs are complete or absent, whatever happens while they are written."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from safetensors import SafetensorError

from featspace.utils.checksums import write_checksums
from featspace.utils.errors import FeatspaceError, UsageError
from featspace.utils.files import atomic_dir, atomic_file, sha256


def test_dir_appears_when_complete(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with atomic_dir(out) as partial:
        (partial / "a.txt").write_text("a")
        assert not out.exists()
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert (out / "a.txt").read_text() == "a"


def test_file_replaces_and_keeps_suffix(tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    out.write_text("old")
    with atomic_file(out) as partial:
        assert partial.suffix == ".csv" and partial.parent == tmp_path
        partial.write_text("new")
        assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    assert out.read_text() == "new"


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_of_a_failure(tmp_path: Path, failure: type[BaseException]) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("old")
    with pytest.raises(failure), atomic_dir(tmp_path / "out") as partial:
        (partial / "a.txt").write_text("a")
        raise failure
    with pytest.raises(failure), atomic_file(kept) as partial:
        partial.write_text("half")
        raise failure
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
    assert kept.read_text() == "old"


def test_full_disk_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(FeatspaceError, match=r"no space left on the disk of .*out\.txt: free some"),
        atomic_file(tmp_path / "out.txt") as partial,
    ):
        partial.write_text("half")
        Path("/dev/full").write_bytes(b"x")
    rust = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(FeatspaceError, match="no space left"), atomic_dir(tmp_path / "out"):
        raise rust
    assert list(tmp_path.iterdir()) == []


def test_a_filled_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"), atomic_dir(tmp_path):
        raise AssertionError("must not get here")
    with pytest.raises(UsageError, match="is a file"), atomic_dir(tmp_path / "mine.txt"):
        raise AssertionError("must not get here")
    with pytest.raises(UsageError, match="is a folder"), atomic_file(tmp_path):
        raise AssertionError("must not get here")
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "x.csv"
    with pytest.raises(FeatspaceError, match="cannot create the folder"), atomic_file(out):
        raise AssertionError("must not get here")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()
    with pytest.raises(FeatspaceError, match="cannot be read"):
        sha256(tmp_path)


def test_a_list_of_checksums_leaves_out_what_is_told(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", ".hidden"):
        (tmp_path / name).write_text(name)
    out = tmp_path / "SHA256SUMS"
    for _ in range(2):  # the second time the list itself is there
        write_checksums([tmp_path], out, [tmp_path / "b.txt", tmp_path / "absent.txt"])
        assert out.read_text() == f"{sha256(tmp_path / 'a.txt')}  a.txt\n"
