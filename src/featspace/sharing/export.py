"""A profile's results in one zip file: what `featspace export` does."""

from __future__ import annotations

import hashlib
import os
import shutil
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import IO
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from featspace.report.provenance import Commit, read_commit
from featspace.sharing.contents import list_files, read_contents
from featspace.sharing.crate import FILE, describe
from featspace.utils.checksums import checksum_line
from featspace.utils.errors import FeatspaceError, UsageError
from featspace.utils.files import atomic_file, sha256

SUMS = "SHA256SUMS"
"""Of every other file of a bundle."""


def run_export(root: Path, profile: str, out: Path) -> int:
    """Writes a profile's bundle, complete or not at all; the number of its files.

    It holds what `read_contents` says, SHA256SUMS of it all, and RO-Crate metadata. The same checkout gives the same
    bytes: files are in order, dates are the commit's or none, and nothing is compressed, as images and weights would
    hardly get smaller. Raises UsageError if `out` is no .zip, and as `read_contents` does; FeatspaceError where git
    knows no commit, or where what it tracks is not as committed.
    """
    if out.suffix != ".zip":
        raise UsageError(f"{out}: a bundle is a zip file; name one, such as {profile}.zip")
    contents = read_contents(root, profile)
    commit = _commit(root)
    files = list_files(root, contents)
    crate = describe(root, profile, contents, commit, version("featspace")).encode()
    sums = {FILE: hashlib.sha256(crate).hexdigest()} | {file.as_posix(): sha256(root / file) for file in files}
    lines = os.fsencode("".join(checksum_line(name, digest) for name, digest in sorted(sums.items())))
    with atomic_file(out) as partial, ZipFile(partial, "w", ZIP_STORED) as archive:
        for name, content in ((FILE, crate), (SUMS, lines)):
            _write(archive, name, len(content), BytesIO(content))
        for file in files:
            with open(root / file, "rb") as source:
                _write(archive, file.as_posix(), os.fstat(source.fileno()).st_size, source)
    return len(sums) + 1


def _write(archive: ZipFile, name: str, size: int, source: IO[bytes]) -> None:
    entry = ZipInfo(name)  # of 1980
    entry.create_system, entry.external_attr, entry.file_size = 3, 0o100644 << 16, size
    with archive.open(entry, "w") as target:
        shutil.copyfileobj(source, target, 1 << 20)


def _commit(root: Path) -> Commit:
    commit = read_commit(root)
    if commit is None:
        raise FeatspaceError(f"{root.resolve()}: no git checkout with a commit, which a bundle names; export from one")
    if commit.changed:
        more = f" and {len(commit.changed) - 1} more" if len(commit.changed) > 1 else ""
        raise FeatspaceError(f"{commit.changed[0]}{more}: not as in the commit, which a bundle names; commit it first")
    return commit
