"""A clock that is set, by years and backwards: durations stay what they are, and nothing is lost."""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import tqdm.std

from featspace.cli import main
from featspace.report import durations
from featspace.report.durations import note_seconds, read_durations
from featspace.utils.files import sha256

pytestmark = pytest.mark.usefixtures("offline")
YEAR = 365.25 * 86400
JUMPS = (0, 10 * YEAR, -30 * YEAR, 1, -10 * YEAR, 0.5)
WALL = re.compile(r"\b(time\.time\(|time\.localtime|datetime\.(now|today|utcnow)|getmtime|st_[acm]time)")
KNOWN = {
    "report/durations.py": 1,  # when a command ended: shown, and the order of rows
    "report/page.py": 1,  # when the page was built: shown
    "utils/files.py": 1,  # whether a file has changed since it was read in this process, with its size and inode
}
"""Lines of the package that read the clock of the wall."""


@pytest.fixture
def jumping(monkeypatch):
    """Each look at the clock finds it set anew; that of durations goes on."""
    start, jumps = time.time(), itertools.cycle(JUMPS)

    def now() -> float:
        return start + next(jumps)

    class Jumping(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2026, 1, 1, tzinfo=tz) + timedelta(seconds=next(jumps))

    monkeypatch.setattr(time, "time", now)
    monkeypatch.setattr(tqdm.std, "time", now)
    monkeypatch.setattr(durations, "datetime", Jumping)


def test_the_clock_of_the_wall_is_read_where_that_is_known():
    package = Path(durations.__file__).parents[1]
    found = {
        str(path.relative_to(package)): len(lines)
        for path in package.rglob("*.py")
        if (lines := [line for line in path.read_text().splitlines() if WALL.search(line)])
    }
    assert found == KNOWN


@pytest.mark.parametrize("name", ["decode", "featinv evaluate"])
def test_images_do_not_depend_on_the_clock(name, commands, tmp_path, request):
    for folder in ("steady", "jumping"):
        if folder == "jumping":
            request.getfixturevalue("jumping")
        main([part.replace("OUT", str(tmp_path / folder)) for part in commands[name]])
    first, second = (
        {path.name: sha256(path) for path in (tmp_path / folder / "out").iterdir()} for folder in ("steady", "jumping")
    )
    assert first == second and len(first) > 4


def test_durations_are_never_negative_and_every_stage_is_listed(tmp_path, monkeypatch, jumping):
    (tmp_path / ".dvc").mkdir()
    stages = {f"stage{i}": {"cmd": f"featspace do {i}", "outs": [{"path": f"out/{i}"}]} for i in range(4)}
    (tmp_path / "dvc.lock").write_text(json.dumps({"stages": stages}))
    for i, stage in enumerate(stages):
        (tmp_path / "out" / str(i)).mkdir(parents=True)
        monkeypatch.setenv("DVC_ROOT", str(tmp_path))
        monkeypatch.setenv("DVC_STAGE", stage)
        start = time.monotonic()
        note_seconds(["do", str(i)], time.monotonic() - start)
    found = read_durations(tmp_path, [tmp_path / "out"])
    assert {row.stage for row in found} == set(stages)
    assert all(row.seconds is not None and row.seconds >= 0 and row.ended for row in found)
    assert datetime.fromisoformat(found[0].ended).tzinfo == UTC


def test_a_file_that_changes_while_the_clock_stands_still_is_read_again(tmp_path):
    path = tmp_path / "x"
    path.write_text("a")
    stamp, first = path.stat().st_mtime_ns, sha256(path)
    path.write_text("b")
    os.utime(path, ns=(stamp, stamp))
    assert sha256(path) != first
