"""Commands that take long, killed or told to end at any moment: they go on to the same bytes, one at a time."""

from __future__ import annotations

import os
import random
import re
import signal
from pathlib import Path

import pandas as pd
import pytest
from processes import NOT_PERMITTED, Fault, ended, held, operations, run, start

from featspace.cli import app

LONG = ("decode", "ablate", "featinv evaluate", "featinv train", "bench run", "layers")
ALONE = LONG[:-1]
"""They keep what is finished, and hold a lock; the table of `layers` is whole or not there."""
SHORT = {
    *("mix", "mixtures", "ablation", "agreement", "neighbors", "traces", "claims", "report", "fetch", "targets"),
    *("features", "similarity", "references", "metrics", "figures", "checksums", "speed", "sheet", "score", "verify"),
    *("export", "merge", "bench load", "bench scale"),
    *("reproduced", "spread", "bench held-out", "bench summary", "bench figure", "featinv decode", "featinv summary"),
    *("featinv together", "featinv means", "featinv figure", "featinv steer"),
}
"""They write at their end alone, and a run that is cut off begins anew."""
PIPELINE = {"repro"}
"""Runs the others; tests/review cuts it off."""
PATCHES = {"stages.featinv.evaluate.PART": 2}


def test_every_command_is_known_to_be_long_or_short():
    groups = [("", app), *((f"{group.name} ", group.typer_instance) for group in app.registered_groups)]
    commands = (
        (start + (command.name or command.callback.__name__)).replace("_", "-")
        for start, group in groups
        for command in group.registered_commands
    )
    assert sorted(commands) == sorted({*LONG, *SHORT, *PIPELINE})


class Runs:
    """A command, run in processes of its own into folders of one; what an uninterrupted run writes, and its steps."""

    def __init__(self, command: list[str], project: Path, folder: Path):
        self.command, self.project, self.folder = command, project, folder
        self.fault = self.into("whole")
        status, lines = self.run(self.fault)
        assert status == 0, lines
        self.written, self.operations = written(folder / "whole"), operations(self.fault)

    def into(self, name: str, **fault) -> Fault:
        (self.folder / name).mkdir(exist_ok=True)
        Path(f"{self.folder / name}.held").unlink(missing_ok=True)
        return Fault(str(self.folder / name), patches=PATCHES, **fault)

    def start(self, fault: Fault):
        return start([part.replace("OUT", fault.within) for part in self.command], self.project, fault)

    def run(self, fault: Fault):
        return ended(self.start(fault), fault)


def written(folder: Path) -> dict[str, str | bytes]:
    """What is in a folder, by path, but a checkpoint, which may be packed in another way; of a benchmark's table all
    but the seconds."""
    found: dict[str, str | bytes] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in ("checkpoint.pt", ".log", ".count"):
            found[str(path.relative_to(folder))] = path.read_bytes()
            if path.name == "images.csv":
                found[str(path.relative_to(folder))] = pd.read_csv(path, dtype=str).drop(columns="seconds").to_csv()
    return found


@pytest.fixture(scope="module")
def runs(commands, project, tmp_path_factory):
    made: dict[str, Runs] = {}

    def of(name: str) -> Runs:
        if name not in made:
            made[name] = Runs(commands[name], project, tmp_path_factory.mktemp(name.replace(" ", "-")))
        return made[name]

    return of


@pytest.mark.parametrize("name", LONG)
def test_a_killed_run_goes_on_to_the_same_bytes(name, runs):
    own, rng = runs(name), random.Random(name)
    for folder, first in (("early", 0.0), ("late", 0.75)):
        at = int(own.operations * rng.uniform(first, first + 0.25)) + 1
        status, _ = own.run(own.into(folder, killed_at=at))
        assert status == -signal.SIGKILL
        status, lines = own.run(own.into(folder))
        assert status == 0 or "out: the folder is not empty" in lines[-1], lines  # all was done but the unlocking
        found = written(own.folder / folder)
        found = {path: content for path, content in found.items() if not path.endswith(".lock")}
        if name not in ALONE:
            found = {path: content for path, content in found.items() if not path.startswith(".partial-")}
        assert found == own.written, (folder, at)


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize(
    ("number", "status", "said"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "ended by SIGTERM"),
        (signal.SIGHUP, 129, "ended by SIGHUP"),
    ],
)
def test_a_run_that_is_told_to_end_leaves_what_is_finished_and_nothing_else(name, number, status, said, runs):
    own = runs(name)
    if number == signal.SIGHUP and name != "decode":
        pytest.skip("as SIGTERM")
    folder = f"told-{number}"
    fault = own.into(folder, held_at=max(1, own.operations * 3 // 4))
    process = own.start(fault)
    held(process, fault)
    os.kill(process.pid, number)
    code, lines = ended(process, fault)
    assert code == status and lines[-1] == f"featspace: error: {said}", lines
    assert not any("Traceback" in line for line in lines)
    left = written(own.folder / folder)
    assert not any(".partial-" in path or path.endswith(".lock") for path in left), left
    if name in ALONE and name != "bench run":
        assert not (own.folder / folder / "out").exists() and left
    if name in ("decode", "featinv evaluate"):
        assert "finished images are kept; the same command goes on from them" in lines[-2]
    if number == signal.SIGINT:
        assert own.run(own.into(folder))[0] == 0
        assert written(own.folder / folder) == own.written


@pytest.mark.parametrize("name", LONG)
def test_a_run_whose_disk_is_full_says_so_and_goes_on_once_there_is_space(name, runs):
    own = runs(name)
    status, lines = own.run(own.into("full", full_at=own.operations // 2))
    said = r"featspace: error: .*no space left on the disk.*: free some, and run the same command again"
    assert status == 1 and re.fullmatch(said, lines[-1]), lines
    assert not any("Traceback" in line for line in lines)
    assert not any(".partial-" in path or path.endswith(".lock") for path in written(own.folder / "full"))
    assert own.run(own.into("full"))[0] == 0
    assert written(own.folder / "full") == own.written


@pytest.mark.parametrize("name", LONG)
def test_a_disk_that_cannot_be_written_is_named(name, runs):
    own = runs(name)
    fault = own.into("read-only", is_read_only=True)
    status, lines = own.run(fault)
    if status == NOT_PERMITTED:
        pytest.skip("may not mount")
    assert status == 1 and lines[-1].startswith("featspace: error: ") and fault.within in lines[-1], lines
    assert "no permission" in lines[-1] or "read-only" in lines[-1], lines
    assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize("name", ALONE)
def test_a_second_run_is_refused_and_a_killed_one_stands_in_nobodys_way(name, runs):
    own = runs(name)
    fault = own.into("first", held_at=own.operations // 2)
    process = own.start(fault)
    held(process, fault)
    second = Fault(fault.within + "/", patches=PATCHES)
    status, lines = run([part.replace("OUT", fault.within) for part in own.command], own.project, second)
    path = f"{fault.within}/{'work' if name == 'featinv train' else 'out'}"
    refused = f"featspace: error: {path}: another run is making it; wait for it to end, or name another path"
    assert status == 2 and lines[-1] == refused, lines
    process.kill()
    process.join()
    assert own.run(own.into("first"))[0] == 0
    assert written(own.folder / "first") == own.written
