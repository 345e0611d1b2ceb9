"""A decoding that is killed at any moment, and repeated, ends with the bytes of one that was not."""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import torch
from killing import started, was_killed

from featspace.cli import main

KILLS = 10


def decode(project: Path, out: Path) -> None:
    """Two photographs, two images each, one at once."""
    os.chdir(project)
    torch.set_num_threads(1)
    main(["decode", "photo.jpg", "other.png", "--encoder", "resnet", "--batch", "1", "--out", str(out)])


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def test_a_decoding_may_be_killed_at_any_moment(project: Path, tmp_path: Path) -> None:
    shutil.copy(project / "photo.jpg", project / "other.png")
    for name in ("first", "whole"):  # the first starts the processes' server
        start = time.monotonic()
        assert not was_killed(started(decode, project, tmp_path / name / "out"))
    seconds, whole = time.monotonic() - start, contents(tmp_path / "whole")
    rng, killed = random.Random(0), 0
    moments = [(place + rng.random()) / KILLS for place in range(KILLS)]
    rng.shuffle(moments)
    out = tmp_path / "killed" / "out"
    for moment in (*moments, None):
        killed += was_killed(started(decode, project, out), None if moment is None else seconds * moment)
        if moment is not None and out.is_dir():  # it was through before, but perhaps for what it prints at the end
            assert contents(out.parent) == whole
            shutil.rmtree(out)
    assert killed and contents(out.parent) == whole
