"""Places that cannot be written: full, of another disk, read-only, linked, made meanwhile, or left half-written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from featspace.utils.errors import FeatspaceError, UsageError
from featspace.utils.files import atomic_dir, atomic_file, is_full
from featspace.utils.locks import alone

ELSEWHERE = Path("/dev/shm")
"""A disk of its own on Linux."""


@pytest.fixture
def elsewhere(tmp_path):
    if not ELSEWHERE.is_mount() or not os.access(ELSEWHERE, os.W_OK):
        pytest.skip("no second disk")
    folder = ELSEWHERE / f"featspace-{os.getpid()}-{tmp_path.name}"
    folder.mkdir()
    yield folder
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    folder.rmdir()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_every_want_of_space_is_named(number, tmp_path):
    with pytest.raises(FeatspaceError, match=r"no space left on the disk of .*x\.csv"), atomic_file(tmp_path / "x.csv"):
        raise OSError(number, os.strerror(number))
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_the_disk_has_no_space_for_is_named(tmp_path):
    """PyTorch's own error is of its file's format, while that of the system is what it came from."""
    full = pytest.raises(FeatspaceError, match=r"no space left on the disk of .*x\.pt")
    with full, atomic_file(tmp_path / "x.pt"), open("/dev/full", "wb") as file:
        torch.save({"x": torch.zeros(10**6)}, file)
    assert not is_full(RuntimeError("unexpected pos 704 vs 598"))


def test_an_error_in_a_fallback_after_a_full_disk_is_its_own():
    try:
        try:
            raise OSError(errno.ENOSPC, "full")
        except OSError:
            raise ValueError("another") from None
    except ValueError as error:
        assert not is_full(error)


def test_outputs_on_another_disk_and_by_way_of_a_link(tmp_path, elsewhere):
    (tmp_path / "link").symlink_to(elsewhere)
    with atomic_file(tmp_path / "link" / "a.csv") as partial:
        partial.write_text("a")
    with atomic_dir(tmp_path / "link" / "new") as partial:
        (partial / "b").write_text("b")
    (elsewhere / "empty").mkdir()
    (tmp_path / "out").symlink_to(elsewhere / "empty")
    with atomic_dir(tmp_path / "out") as partial:
        (partial / "c").write_text("c")
    assert (tmp_path / "out").is_symlink() and (elsewhere / "empty" / "c").read_text() == "c"
    assert sorted(path.name for path in elsewhere.iterdir()) == ["a.csv", "empty", "new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out"]


def test_the_root_of_a_disk_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "disk")
    refused = pytest.raises(UsageError, match="disk: a disk is mounted here; name a new folder in it")
    with refused, atomic_dir(tmp_path / "disk"):
        raise AssertionError("must not get here")


def test_what_another_run_has_made_meanwhile_stays(tmp_path):
    refused = pytest.raises(UsageError, match="out: another run has made it meanwhile, which stays; name another path")
    with refused, atomic_dir(tmp_path / "out") as partial:
        (partial / "late").write_text("")
        with atomic_dir(tmp_path / "out") as other:
            (other / "first").write_text("")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "first"]


def test_whoever_holds_the_lock_removes_what_a_killed_run_left_half_written_and_nothing_else(tmp_path):
    out, other = tmp_path / "out", tmp_path / "out.csv"
    for folder in (out, tmp_path / "out.unfinished" / "records", tmp_path / ".partial-0123abcd-out"):
        folder.mkdir(parents=True)
        (folder / "kept.png").write_text("")
        (folder / ".partial-0123abcd-x.png").write_text("")
    kept = [tmp_path / ".partial-0123abcd-out.csv", tmp_path / ".partial-mine", out / ".partial-mine", other]
    for path in kept:
        path.write_text("")
    with alone(out):
        found = {path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"}
    records = tmp_path / "out.unfinished" / "records" / "kept.png"
    assert found == {*kept, out / "kept.png", records}
