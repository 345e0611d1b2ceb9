"""Outputs that are either complete or absent: write partial, then rename."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
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
    partial = path.with_name(f".partial-{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        _writable(path)
        yield partial
        partial.replace(path)
    except Exception as error:
        if not _is_full(error):
            raise
        raise FeatspaceError(f"no space left on the disk of {path}: free some and run this again") from error
    finally:  # after a success nothing is left to remove
        if partial.is_dir():
            shutil.rmtree(partial)
        elif partial.exists():
            partial.unlink()


def _writable(path: Path) -> None:
    """Creates the parent folder; raises FeatspaceError where nothing can be created in it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if _is_full(error):
            raise
        reason = error.strerror or str(error)
        raise FeatspaceError(f"{path}: cannot create the folder {path.parent} ({reason.lower()})") from error
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise FeatspaceError(f"{path}: no permission to write in {path.parent.resolve()}; name another place")


def _is_full(error: Exception) -> bool:
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


def write_checksums(paths: Iterable[Path], out: Path, without: Iterable[Path] = ()) -> None:
    """Writes the SHA-256 of files, and of all files in folders, in the format of `sha256sum -c`, sorted by path.

    Paths in the list are relative to its folder; the list itself is left out, and so are the files `without`, whether
    they are there or not. Raises FeatspaceError if one of `paths` does not exist.
    """
    files = []
    for path in map(Path, paths):
        if not path.exists():
            raise FeatspaceError(f"{path}: no such file or folder; run the stage that writes it")
        files += [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    left_out = {out.resolve(), *(Path(file).resolve() for file in without)}
    names = {Path(os.path.relpath(file, out.parent)).as_posix(): file for file in files}
    lines = [
        f"{sha256(file)}  {name}\n"
        for name, file in sorted(names.items())
        if file.resolve() not in left_out and not file.name.startswith(".")
    ]
    with atomic_file(out) as partial:
        partial.write_text("".join(lines), encoding="utf-8")
