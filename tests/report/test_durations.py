"""How long stages took is noted where DVC runs them, and read where they are listed."""

from __future__ import annotations

import os
import sys
from contextlib import chdir
from pathlib import Path

import pytest
from dvc.repo import Repo

from featspace.cli import main
from featspace.report.durations import FOLDER, note_seconds, read_durations

STAGES = """
stages:
  one:
    foreach: [a, b]
    do:
      cmd:
        - featspace checksums given.txt --out "data/${item} 1"
        - featspace checksums given.txt --out data/${item}2
      deps: [given.txt]
      outs: ["data/${item} 1", "data/${item}2"]
  other:
    cmd: featspace checksums given.txt --out elsewhere.txt
    deps: [given.txt]
    outs: [elsewhere.txt]
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("durations")
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    (folder / "dvc.yaml").write_text(STAGES)
    (folder / "given.txt").write_text("a")
    with pytest.MonkeyPatch.context() as patch, chdir(folder), Repo(".") as repo:
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        repo.reproduce()
    return folder


def test_dvc_says_what_is_noted(built: Path) -> None:
    first, second = read_durations(built, [built / "data"])
    assert {first.stage, second.stage} == {"one@a", "one@b"} and first.ended <= second.ended
    assert all(0 < duration.seconds < 60 for duration in (first, second))


def test_a_stage_of_which_a_command_was_not_run_here_has_none(built: Path, tmp_path: Path) -> None:
    noted = built / FOLDER / "one@a.json"
    kept = noted.read_text()
    try:
        for damaged in (kept.replace("data/a2", "data/other"), kept[:30], "[]"):
            noted.write_text(damaged)
            first, second = read_durations(built, [built / "data"])
            assert (first.stage, second) == ("one@b", ("one@a", None, ""))
    finally:
        noted.write_text(kept)


def test_nothing_is_noted_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tmp_path / "given.txt"
    given.write_text("a")
    arguments = ["checksums", str(given), "--out", str(tmp_path / "list")]
    for root, stage in ((None, None), (str(tmp_path), "one"), (None, "one")):  # the second: not a project of DVC
        for name, value in (("DVC_ROOT", root), ("DVC_STAGE", stage)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        main(arguments)
    (tmp_path / ".dvc").mkdir()
    with pytest.raises(SystemExit):  # a command that fails
        main(["checksums", str(tmp_path / "none"), "--out", str(tmp_path / "list")])
    assert not (tmp_path / FOLDER).exists() and read_durations(tmp_path, [tmp_path]) == []


def test_a_disk_that_cannot_be_written_fails_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/tmp").write_text("a file, no folder")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("DVC_STAGE", "training/dvc.yaml:one")
    note_seconds(["x"], 1.0)
    (tmp_path / ".dvc/tmp").unlink()
    note_seconds(["x"], 1.0)
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["training%2Fdvc.yaml%3Aone.json"]
