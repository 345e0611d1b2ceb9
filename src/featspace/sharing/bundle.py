"""A bundle, opened: unpacked apart, and held to its sums before anything in it is read."""

from __future__ import annotations

import shutil
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory, gettempdir
from zipfile import BadZipFile, ZipFile, ZipInfo

from tqdm import tqdm

from featspace.sharing.crate import FILE, read_version
from featspace.sharing.export import SUMS
from featspace.utils.checksums import parse_checksum
from featspace.utils.errors import FeatspaceError, UsageError, one_line
from featspace.utils.files import sha256
from featspace.utils.names import is_reserved

GROWTH = 10
"""A zip whose files are said to have so many times its bytes, or more, is refused; what `featspace export` writes has
fewer bytes in its files than in all."""
ENTRIES = 100_000
DAMAGED = (BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, zlib.error)
"""What zipfile raises."""
SHOWN = 3


@contextmanager
def open_bundle(
    path: Path, report: Callable[[str], None] = print, profile: str | None = None
) -> Iterator[tuple[Path, str]]:
    """Yields a temporary folder with the files of a bundle, a zip or a folder, and the name of its profile.

    Nothing is unpacked before all names and sizes were seen: no path leads outside, is a link or a device. Then every
    file is held against SHA256SUMS; `report` is given a line for each that is altered, missing, or not listed. What is
    raised of the temporary folder is said of the bundle. Raises UsageError if there is none at `path`, or one of
    another profile than `profile`, FeatspaceError if it is no bundle or a damaged one, if its sums do not hold, or if
    another version of featspace wrote it.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such bundle; name a zip that `featspace export` wrote, or its folder")
    with TemporaryDirectory(prefix="featspace-") as name:
        folder = Path(name).resolve() / "bundle"
        folder.mkdir()
        (_copy if path.is_dir() else _unpack)(path, folder)
        for file in (SUMS, FILE):
            if not (folder / file).is_file():
                raise FeatspaceError(f"{path}: no bundle of `featspace export`, as there is no {file}; name another")
        if wrong := list(_unlike(folder)):
            for line in wrong:
                report(line)
            first = ", ".join(wrong[:SHOWN]) + (", …" if len(wrong) > SHOWN else "")
            files = "1 file is" if len(wrong) == 1 else f"{len(wrong)} files are"
            raise FeatspaceError(f"{path}: {files} not as {SUMS} says ({first}); get it again")
        wrote, here = read_version(folder / FILE), version("featspace")
        if wrote != here:
            raise FeatspaceError(f"{path}: written by featspace {wrote or '?'}, and this is {here}; install that one")
        profiles = [child.name for child in (folder / "figures").glob("*") if child.is_dir()]
        if len(profiles) != 1:
            raise FeatspaceError(f"{path}: of {len(profiles)} profiles, not of one; get it again")
        if profile not in (None, profiles[0]):
            todo = "leave out --profile, or name another bundle"
            raise UsageError(f"{path}: a bundle of {profiles[0]}, not of {profile}; {todo}")
        try:
            yield folder, profiles[0]
        except FeatspaceError as error:
            raise type(error)(*(str(line).replace(str(folder), str(path)) for line in error.args)) from error


def _unlike(folder: Path) -> Iterator[str]:
    """A line for each file that is not as the list of sums says."""
    listed = {}
    lines = (folder / SUMS).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            name, digest = parse_checksum(line)
        except ValueError as error:
            yield f"{SUMS}, line {number}: {error}"
        else:
            listed[name] = digest
    there = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    del there[SUMS]
    for name in sorted(listed.keys() | there.keys()):
        if name not in there:
            yield f"{name}: missing"
        elif name not in listed:
            yield f"{name}: not listed"
        elif sha256(there[name]) != listed[name]:
            yield f"{name}: altered"


def _unpack(path: Path, folder: Path) -> None:
    """Raises FeatspaceError if the zip is damaged, too large, or has an entry that is no plain file in it."""
    try:
        with ZipFile(path) as archive:
            entries = archive.infolist()
            _refuse_size(path, len(entries), sum(x.file_size for x in entries), GROWTH * path.stat().st_size)
            seen: set[str] = set()
            for entry in entries:
                if why := _unsafe(entry) or ("there twice" if entry.filename in seen else ""):
                    raise FeatspaceError(f"{path}: its entry {entry.filename!r} is {why}; it is not unpacked")
                seen.add(entry.filename)
            archive.extractall(folder)
    except (*DAMAGED, NotADirectoryError, IsADirectoryError, FileExistsError) as error:  # a file that is a folder, too
        raise FeatspaceError(f"{path}: no zip, or cut short or damaged ({one_line(error)}); get it again") from error


def _unsafe(entry: ZipInfo) -> str:
    """Why an entry is not unpacked; empty if it is."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    parts = PurePosixPath(entry.filename).parts
    if entry.orig_filename != entry.filename or "\\" in entry.filename or ":" in entry.filename:
        return "named as no file in a bundle is"
    if not parts or parts[0] == "/" or ".." in parts:
        return "a path that leads outside"
    if any(map(is_reserved, parts)):
        return "the name of a device"
    if kind not in (0, stat.S_IFDIR if entry.is_dir() else stat.S_IFREG):
        return "a link or a device"
    return "encrypted" if entry.flag_bits & 1 else ""


def _copy(path: Path, folder: Path) -> None:
    """A folder's files; raises FeatspaceError if one is a link or a device."""
    found = sorted(path.rglob("*"))
    for file in found:
        if file.is_symlink() or not (file.is_dir() or file.is_file()):
            raise FeatspaceError(f"{file}: a link or a device, which no bundle has; remove it, or get it again")
    files = [file for file in found if file.is_file()]
    _refuse_size(path, len(files), sum(file.stat().st_size for file in files))
    for file in files:
        place = folder / file.relative_to(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)


def _refuse_size(path: Path, entries: int, size: int, most: int | None = None) -> None:
    if entries > ENTRIES:
        raise FeatspaceError(
            f"{path}: {entries} files, more than the {ENTRIES} that a bundle may have; it is not opened"
        )
    if most is not None and size > most:
        shown = tqdm.format_sizeof(size, "B")
        raise FeatspaceError(f"{path}: it says to unpack to {shown}, over {GROWTH} times its size; it is not unpacked")
    free = shutil.disk_usage(gettempdir()).free
    if size > free:
        needs, has = (tqdm.format_sizeof(x, "B") for x in (size, free))
        raise FeatspaceError(f"{path}: {needs} to unpack, and {gettempdir()} has {has}; set TMPDIR to another place")
