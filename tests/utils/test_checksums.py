"""Lists of checksums, against GNU's sha256sum."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from featspace.hub.manifest import verify_manifest
from featspace.utils.checksums import write_checksums
from featspace.utils.errors import FeatspaceError
from featspace.utils.files import sha256

NAMES = ["plain", "a\nb", "back\\slash", "cr\rlf", "é 写真", os.fsdecode(b"caf\xe9"), "sep\u2028arated", "\\n"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        (tmp_path / name).write_text(f"content {number}")
    write_checksums([tmp_path], tmp_path / "SHA256SUMS")
    return tmp_path


def test_names_of_every_kind_are_read_back(folder: Path) -> None:
    assert verify_manifest(folder) == {folder / name: sha256(folder / name) for name in NAMES}
    (folder / "a\nb").write_text("altered")
    with pytest.raises(FeatspaceError) as caught:
        verify_manifest(folder)
    assert r"a\nb: the file was altered" in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_the_list_is_what_sha256sum_writes_and_checks(folder: Path) -> None:
    checked = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    theirs = subprocess.run(["sha256sum", *NAMES], cwd=folder, capture_output=True, check=True).stdout
    assert sorted(theirs.splitlines()) == sorted((folder / "SHA256SUMS").read_bytes().splitlines())


def test_a_message_stays_one_line_whatever_a_path_holds() -> None:
    assert str(FeatspaceError("a\nb\x1b[31m: no é\u2028file")) == r"a\nb\x1b[31m: no é\u2028file"
    assert str(FeatspaceError("one", "two")) == "one\ntwo"
