"""Outputs that are either complete or absent: write partial, then rename."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from featspace.utils.errors import FeatspaceError, UsageError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The disk is full, or a user's quota of it, or a file as large as it may be."""


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yields a new empty folder beside `path`, which becomes `path` on success and is removed otherwise.

    Raises UsageError if `path` exists and is not an empty folder (nothing of a user's is ever replaced by a
    folder), and FeatspaceError if the disk is full or the place cannot be written.
    """
    path = Path(path)
    refuse_taken(path)
    path = path.resolve() if path.is_symlink() else path  # no folder can replace a link
    with _renamed(path) as partial:
        partial.mkdir()
        yield partial


def refuse_taken(path: Path) -> None:
    """Raises UsageError if no new folder can be `path`: a file, the current folder, the root of a mounted disk, or a
    folder that is not empty."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: is a file, but a folder is to be written here; remove it or name another")
    if path.is_dir() and any(path.iterdir()):
        raise UsageError(f"{path}: the folder is not empty; remove it or name another")
    if path.resolve() == Path.cwd():
        raise UsageError(f"{path}: is the current folder; name a new one")
    if path.resolve().is_mount():
        raise UsageError(f"{path}: a disk is mounted here; name a new folder in it")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` with the same suffix; the file written there replaces `path` on success.

    On failure or interrupt it is removed and `path` stays as it was. Raises FeatspaceError if the disk is
    full or the place cannot be written, UsageError if `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path}: is a folder, but a file is to be written here; name another path")
    with _renamed(path) as partial:
        yield partial


PARTIAL = re.compile(r"\.partial-[0-9a-f]{8}-(.+)", re.DOTALL)


def remove_partials(path: Path) -> None:
    """Removes what killed processes left half-written of `path`, and in it: for who holds its lock alone."""
    beside = path.parent.glob(".partial-*") if path.parent.is_dir() else []
    for left in [*beside, *(path.rglob(".partial-*") if path.is_dir() else [])]:
        name = PARTIAL.fullmatch(left.name)
        if name is None or (left.parent == path.parent and name[1] != path.name):
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


@contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    partial = _partial(path)
    try:
        require_writable(path)
        yield partial
        _flush(partial)
        _replace(partial, path)
    except Exception as error:
        if not is_full(error):
            raise
        raise no_space(path) from error
    finally:  # after a success nothing is left to remove
        if partial.is_dir():
            shutil.rmtree(partial)
        elif partial.exists():
            partial.unlink()


def _partial(path: Path) -> Path:
    return path.with_name(f".partial-{uuid.uuid4().hex[:8]}-{path.name}")


def discard(folder: Path, path: Path) -> None:
    """Removes a folder at once, for whoever is killed meanwhile: what is left then is as if of `path` half-made."""
    partial = _partial(path)
    folder.replace(partial)
    shutil.rmtree(partial)


def _flush(partial: Path) -> None:
    """Waits until all is on the disk: else a loss of power could leave empty what was renamed."""
    for file in partial.rglob("*") if partial.is_dir() else [partial]:
        if file.is_file():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())


def _replace(partial: Path, path: Path) -> None:
    try:
        partial.replace(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise UsageError(f"{path}: another run has made it meanwhile, which stays; name another path") from error


def require_writable(path: Path) -> None:
    """Creates the parent folder; raises FeatspaceError where nothing can be created in it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if is_full(error):
            raise
        reason = error.strerror or str(error)
        raise FeatspaceError(f"{path}: cannot create the folder {path.parent} ({reason.lower()})") from error
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise FeatspaceError(f"{path}: no permission to write in {path.parent.resolve()}; name another place")


def no_space(path: Path) -> FeatspaceError:
    return FeatspaceError(f"no space left on the disk of {path}: free some, and run the same command again")


def is_full(error: BaseException | None) -> bool:
    """Whether a failure to write is for want of space on the disk, or of what the user may have of it.

    What it came from counts, too, as PyTorch reports it in words of its own.
    """
    if error is None:
        return False
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    if any(f"(os error {number})" in str(error) for number in FULL):  # safetensors, which is written in Rust
        return True
    return is_full(error.__cause__ or (None if error.__suppress_context__ else error.__context__))


def user_cache() -> Path:
    """The project's folder in the user's cache: $XDG_CACHE_HOME, else ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "featspace"


def sha256(path: Path) -> str:
    """SHA-256 of a file as 64 lowercase hexadecimal digits; read once a process, unless it changes.

    Raises FeatspaceError if it cannot be read.
    """
    try:
        seen = os.stat(path)
        return _sha256(os.path.realpath(path), seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
    except OSError as error:
        raise FeatspaceError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


@cache
def _sha256(path: str, *changes: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
