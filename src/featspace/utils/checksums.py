"""Lists of SHA-256 sums in the format of GNU's `sha256sum`, which escapes names that have line breaks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from featspace.utils.errors import FeatspaceError
from featspace.utils.files import atomic_file, sha256

ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
"""What is escaped in a name, after a backslash at the start of its line."""
LINE = re.compile(r"(\\?)([0-9a-f]{64}) [ *](.+)", re.DOTALL)  # a space means text, an asterisk binary


def checksum_line(name: str, digest: str) -> str:
    """A file's line in a list, with its end."""
    shown = "".join(ESCAPES.get(char, char) for char in name)
    return f"{'' if shown == name else chr(92)}{digest}  {shown}\n"


def parse_checksum(line: str) -> tuple[str, str]:
    """Name and digest of a line without its end. Raises ValueError for one of another form."""
    if (found := LINE.fullmatch(line)) is None:
        raise ValueError("no SHA-256 and path")
    escape, digest, name = found.groups()
    back = {shown: char for char, shown in ESCAPES.items()}
    return re.sub(r"\\.", lambda shown: back.get(shown[0], shown[0]), name) if escape else name, digest


def list_checksums(paths: Iterable[Path], out: Path, without: Iterable[Path] = ()) -> dict[str, str]:
    """The SHA-256 of files, and of all files in folders, by path, sorted.

    Paths are relative to the folder of `out`. Hidden files, `out` and the files `without` are left out, whether they
    are there or not. Raises FeatspaceError if one of `paths` does not exist.
    """
    files = []
    for path in map(Path, paths):
        if not path.exists():
            raise FeatspaceError(f"{path}: no such file or folder; run the stage that writes it")
        files += [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    names = {Path(os.path.relpath(file, out.parent)).as_posix(): file for file in files}
    left_out = {out.resolve(), *(Path(file).resolve() for file in without)}
    return {
        name: sha256(file)
        for name, file in sorted(names.items())
        if file.resolve() not in left_out and not file.name.startswith(".")
    }


def write_checksums(paths: Iterable[Path], out: Path, without: Iterable[Path] = ()) -> None:
    """Writes `list_checksums` as GNU's `sha256sum -c` reads it."""
    lines = [checksum_line(name, digest) for name, digest in list_checksums(paths, out, without).items()]
    with atomic_file(out) as partial:
        partial.write_bytes(os.fsencode("".join(lines)))
