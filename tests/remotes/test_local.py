"""Results go to a remote that is a folder, and to a reader's clone, who measures them without decoding."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest
import toy_published

from featspace.cli import main

PROJECT = Path(__file__).parents[2]


def dvc(*words: str) -> str:
    command = [str(Path(sys.executable).with_name("dvc")), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_reader_pulls_what_was_pushed_and_verifies_it(project, tmp_path, monkeypatch, capsys):
    author, reader = toy_published.build(project, tmp_path / "author"), tmp_path / "reader"
    toy_published.publish(author)
    with chdir(author):
        dvc("remote", "add", "--default", "shared", str(tmp_path / "shared"))
        toy_published.git("commit", "-qam", "Add a remote")
        dvc("push", "--with-deps", "mini")
    toy_published.git("clone", "-q", str(author), str(reader))
    monkeypatch.chdir(reader)
    with pytest.raises(SystemExit):
        main(["verify"])
    _, pull, _ = re.split(r"fetch it with `dvc (.*)`", capsys.readouterr().err)
    dvc(*pull.split())
    main(["verify"])
    assert "All 12 outputs of mini that need no decoding agree with the 2 that do" in capsys.readouterr().out


def test_the_two_environments_have_the_same_dvc():
    locks = [PROJECT / "requirements.lock", PROJECT / "tests/remotes/requirements.lock"]
    one, other = (re.search(r"^dvc==(\S+)", lock.read_text(), re.MULTILINE)[1] for lock in locks)
    assert one == other
