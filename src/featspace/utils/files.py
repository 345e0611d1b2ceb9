"""Outputs that are either complete or absent: write partial, then rename."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from featspace.utils.errors import FeatspaceError, UsageError


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yields a new empty folder beside `path`, which becomes `path` on success and is removed otherwise.

    Raises UsageError if `path` exists and is not an empty folder (nothing of a user's is ever replaced by a
    folder), and FeatspaceError if the disk is full or the place cannot be written.
    """
    path = Path(path)
    refuse_taken(path)
    with _renamed(path) as partial:
        partial.mkdir()
        yield partial


def refuse_taken(path: Path) -> None:
    """Raises UsageError if no new folder can be `path`: a file, the current folder, or a folder that is not empty."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: is a file, but a folder is to be written here; remove it or name another")
    if path.is_dir() and any(path.iterdir()):
        raise UsageError(f"{path}: the folder is not empty; remove it or name another")
    if path.resolve() == Path.cwd():
        raise UsageError(f"{path}: is the current folder; name a new one")


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


@contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    partial = _partial(path)
    try:
        require_writable(path)
        yield partial
        partial.replace(path)
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


def clear_partials(folder: Path, name: str | None = None) -> None:
    """Removes what processes that were killed left half-made in a folder: of `name`, by default of everything.

    No other process may be making it now.
    """
    for partial in folder.glob(f".partial-{'[0-9a-f]' * 8}-{'*' if name is None else glob.escape(name)}"):
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink()


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


def is_full(error: BaseException) -> bool:
    """Whether a failure to write is for want of space on the disk, or of what the user may have of it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return f"(os error {errno.ENOSPC})" in str(error)  # how safetensors, which is written in Rust, reports it


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
