"""Stages side by side: in order, as often as DVC would, and ended together."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from featspace.review.rebuild import at_once, cores, downstream, run_repro
from featspace.utils.errors import FeatspaceError, UsageError

MEET = "import pathlib, sys, time\nown, other = (pathlib.Path(x) for x in sys.argv[1:])\nown.touch()\n"
MEET += "end = time.monotonic() + 60\nwhile not other.exists():\n"
MEET += "    assert time.monotonic() < end\n    time.sleep(0.01)\n"


def stage(name: str, command: str, *deps: str) -> dict:
    return {"cmd": command, "deps": list(deps), "outs": [f"data/mini/{name}"]}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Two stages each of which waits until the other has begun, and one that joins what both write."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    (tmp_path / "params.yaml").write_text("{}\n")
    (tmp_path / "meet.py").write_text(MEET)
    (tmp_path / "in").write_text("1")
    for folder in ("data/mini", "met"):
        (tmp_path / folder).mkdir(parents=True)
    meet, note = f"{sys.executable} meet.py met", "echo $OMP_NUM_THREADS $OMP_WAIT_POLICY"
    write(
        tmp_path,
        both=stage("both", "cat data/mini/a data/mini/b > data/mini/both", "data/mini/a", "data/mini/b"),
        a=stage("a", f"{meet}/a met/b && {note} > data/mini/a", "in"),
        b=stage("b", f"{meet}/b met/a && cp in data/mini/b", "in"),
        mini={"cmd": "true", "deps": ["data/mini/both"]},
    )
    return tmp_path


def write(folder: Path, **stages: dict) -> None:
    with open(folder / "dvc.yaml", "w") as file:
        YAML().dump({"stages": stages}, file)


def repro(folder: Path, jobs: int = 2) -> list[str]:
    """The lines that are reported, without seconds."""
    lines: list[str] = []
    run_repro(folder, "mini", jobs, lines.append)
    return [line.partition(":")[0] for line in lines]


def test_what_does_not_wait_for_one_another_runs_side_by_side_and_only_what_changed_runs_again(checkout):
    first = repro(checkout)
    assert first.pop(0) == "3 stages to run or to check, 2 at once; a line as each ends"
    assert first[0].startswith("[1/3] ") and {line[6:] for line in first[:2]} == {"a", "b"}
    assert first[2:] == ["[3/3] both", "mini is up to date"]
    passive = "passive" if cores() < 4 else ""
    assert (checkout / "data/mini/both").read_text() == f"2 {passive}\n1"
    assert repro(checkout) == ["mini is up to date"]
    (checkout / "in").write_text("2")
    assert len(repro(checkout)) == 5
    assert (checkout / "data/mini/both").read_text().endswith("\n2")
    said = subprocess.run([sys.executable, "-m", "dvc", "status"], cwd=checkout, capture_output=True, text=True)
    assert "up to date" in said.stdout


def test_a_failure_is_shown_ends_the_build_and_leaves_what_was_made(checkout):
    write(
        checkout,
        good=stage("good", "sleep 1 && cp in data/mini/good", "in"),
        bad=stage("bad", "echo what is wrong; false", "in"),
        after=stage("after", "cp data/mini/bad data/mini/after", "data/mini/bad"),
        mini={"cmd": "true", "deps": ["data/mini/good", "data/mini/after"]},
    )
    lines: list[str] = []
    with pytest.raises(FeatspaceError, match="^bad: failed; what it printed is above$"):
        run_repro(checkout, "mini", 2, lines.append)
    assert "what is wrong" in lines[1] and "failed to reproduce 'bad'" in lines[1]
    assert (checkout / "data/mini/good").exists() and not (checkout / "data/mini/after").exists()
    lock = (checkout / "dvc.lock").read_text()
    assert "good:" in lock and "bad:" not in lock


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_stages_and_the_next_run_goes_on(checkout, number):
    stages = {name: stage(name, f"sh -c 'echo $$ > {name}.pid; exec sleep 600'", "in") for name in ("a", "b")}
    write(checkout, **stages, mini={"cmd": "true", "deps": ["data/mini/a", "data/mini/b"]})
    words = [sys.executable, "-c", "from featspace.cli import main; main(['repro', '--jobs', '2'])"]
    process = subprocess.Popen(words, cwd=checkout, stderr=subprocess.PIPE, text=True, start_new_session=True)
    pids = [checkout / f"{name}.pid" for name in ("a", "b")]
    until(lambda: all(pid.exists() and pid.read_text().strip() for pid in pids))
    sleeping = [psutil.Process(int(pid.read_text())) for pid in pids]
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number and said.count("\n") == 1, said
    until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in sleeping))
    write(checkout, **{name: stage(name, f"cp in data/mini/{name}", "in") for name in ("a", "b")}, mini={"cmd": "true"})
    assert repro(checkout)[-1] == "mini is up to date"


def until(condition) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_depends_on_a_changed_stage_is_to_run_too():
    needs = {"a": set(), "b": {"a"}, "c": set(), "d": {"b", "c"}}
    assert downstream(["b", "unknown"], needs) == {"b", "d"}
    assert downstream([], needs) == set()


@pytest.mark.parametrize(("cores", "gib", "gpu", "jobs"), [(2, 20, False, 2), (16, 64, False, 8), (16, 7, False, 2),
                                                           (2, 1, False, 1), (16, 64, True, 1)])  # fmt: skip
def test_stages_at_once_are_as_many_as_cores_and_memory_are_for(cores, gib, gpu, jobs, monkeypatch):
    monkeypatch.setattr("featspace.review.rebuild.cores", lambda: cores)
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr("featspace.review.rebuild.free_memory", lambda _device: gib << 30)
    assert at_once() == jobs


@pytest.mark.parametrize(("quota", "count"), [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), (None, 8)])
def test_cores_are_counted_within_the_container_s_quota(quota, count, tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: set(range(8)), raising=False)
    monkeypatch.setattr("featspace.review.rebuild.QUOTA", tmp_path / "cpu.max")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert cores() == count


def test_no_pipeline_and_no_such_profile(tmp_path, checkout):
    with pytest.raises(UsageError, match=r"other.*dvc.yaml: not there; run this in a checkout of featspace$"):
        run_repro(tmp_path / "other", "mini", 1)
    with pytest.raises(UsageError, match="^huge: no stage of dvc.yaml writes data/huge; name another profile$"):
        run_repro(checkout, "huge", 1)
