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

from featspace.review.rebuild import at_once, cores, downstream, needed, run_repro
from featspace.review.stages import read_stages
from featspace.utils.errors import FeatspaceError, UsageError

MEET = "import pathlib, sys, time\nown, other = (pathlib.Path(x) for x in sys.argv[1:])\nown.touch()\n"
MEET += "end = time.monotonic() + 60\nwhile not other.exists():\n"
MEET += "    assert time.monotonic() < end\n    time.sleep(0.01)\n"


def stage(name: str, command: str, *deps: str) -> dict:
    return {"cmd": command, "deps": list(deps), "outs": [f"data/mini/{name}"]}


def sums(*deps: str) -> dict:
    """The stage that a profile is built by."""
    return {"cmd": f"cat {' '.join(deps)} > figures/mini/sums", "deps": list(deps), "outs": ["figures/mini/sums"]}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Two stages each of which waits until the other has begun, and one that joins what both write."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    (tmp_path / "params.yaml").write_text("{}\n")
    (tmp_path / "meet.py").write_text(MEET)
    (tmp_path / "in").write_text("1")
    for folder in ("data/mini", "figures/mini", "met"):
        (tmp_path / folder).mkdir(parents=True)
    meet, note = f"{sys.executable} meet.py met", "echo $OMP_NUM_THREADS $OMP_WAIT_POLICY"
    write(
        tmp_path,
        both=stage("both", "cat data/mini/a data/mini/b > data/mini/both", "data/mini/a", "data/mini/b"),
        a=stage("a", f"{meet}/a met/b && {note} > data/mini/a", "in"),
        b=stage("b", f"{meet}/b met/a && cp in data/mini/b", "in"),
        mini=sums("data/mini/both"),
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
    assert first.pop(0) == "4 stages to run or to check, 2 at once; what each prints is in .dvc/tmp/featspace-logs"
    assert first[0].startswith("[1/4] ") and {line[6:] for line in first[:2]} == {"a", "b"}
    assert first[2:] == ["[3/4] both", "[4/4] mini", "mini is up to date"]
    passive = "passive" if cores() < 4 else ""
    assert (checkout / "data/mini/both").read_text() == f"2 {passive}\n1"
    assert repro(checkout) == ["mini is up to date"]
    (checkout / "in").write_text("2")
    assert len(repro(checkout)) == 6
    assert (checkout / "data/mini/both").read_text().endswith("\n2")
    said = subprocess.run([sys.executable, "-m", "dvc", "status"], cwd=checkout, capture_output=True, text=True)
    assert "up to date" in said.stdout


def test_first_run_those_for_which_the_most_others_wait(checkout):
    chain = {"a": "in", "z": "in", "y": "data/mini/z", "x": "data/mini/y"}
    parts = {name: stage(name, f"cat {dep} > data/mini/{name}", dep) for name, dep in chain.items()}
    write(checkout, **parts, mini=sums("data/mini/a", "data/mini/x"))
    assert [line.rpartition(" ")[2] for line in repro(checkout, jobs=1)[1:-1]] == ["z", "y", "a", "x", "mini"]


def failing(folder: Path, good: str) -> None:
    write(
        folder,
        good=stage("good", good, "in"),
        bad=stage("bad", r"printf 'the first\rthe last\r\n'; false", "in"),
        after=stage("after", "cp data/mini/bad data/mini/after", "data/mini/bad"),
        mini=sums("data/mini/good", "data/mini/after"),
    )


def test_a_failure_is_shown_ends_the_build_and_leaves_what_was_made(checkout):
    failing(checkout, "sleep 3 && cp in data/mini/good")
    lines: list[str] = []
    with pytest.raises(FeatspaceError, match="^dvc .* bad: failed; what it printed is above$"):
        run_repro(checkout, "mini", 2, lines.append)
    assert "\nthe last\n" in lines[1] and "failed to reproduce 'bad'" in lines[1]
    assert lines[2:] == ["waiting for good to end"]
    assert (checkout / "data/mini/good").exists() and not (checkout / "data/mini/after").exists()
    lock = (checkout / "dvc.lock").read_text()
    assert "good:" in lock and "bad:" not in lock


SLEEP = "sh -c 'echo $$ > {}.pid; exec sleep 600'"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after_a_failure", [False, True])
def test_a_signal_ends_all_stages_and_the_next_run_goes_on(checkout, number, after_a_failure):
    if after_a_failure:
        failing(checkout, SLEEP.format("good"))
    else:
        stages = {name: stage(name, SLEEP.format(name), "in") for name in ("a", "b")}
        write(checkout, **stages, mini=sums("data/mini/a", "data/mini/b"))
    words = [sys.executable, "-c", "from featspace.cli import main; main(['repro', '--jobs', '2'])"]
    pids = [checkout / f"{name}.pid" for name in (["good"] if after_a_failure else ["a", "b"])]
    with open(checkout / "said", "w") as said:
        process = subprocess.Popen(words, cwd=checkout, stdout=said, stderr=said, start_new_session=True)
    try:
        until(lambda: all(pid.exists() and pid.read_text().strip() for pid in pids))
        until(lambda: not after_a_failure or "waiting for good" in (checkout / "said").read_text())
        sleeping = [psutil.Process(int(pid.read_text())) for pid in pids]
        if not after_a_failure:
            second = subprocess.run(words, cwd=checkout, capture_output=True, text=True)
            assert second.returncode == 2 and "data/mini: another run is making it" in second.stderr
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    finally:
        process.kill()
    assert (checkout / "said").read_text().rstrip().split("\n")[-1].startswith("featspace: error: ")
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in sleeping)
    write(checkout, a=stage("a", "cp in data/mini/a", "in"), mini=sums("data/mini/a"))
    assert repro(checkout)[-1] == "mini is up to date"


def until(condition) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_the_target_does_not_need_is_left_out_and_what_depends_on_a_change_is_to_run_too(checkout):
    parts = {
        name: stage(name, "true", *deps) for name, deps in {"a": ["in"], "b": ["data/mini/a"], "c": ["in"]}.items()
    }
    write(checkout, **parts, mini=sums("data/mini/b"), other=stage("other", "true", "data/mini/b", "data/mini/c"))
    needs = needed(read_stages(checkout, "mini"), "mini")
    assert needs == {"a": set(), "b": {"a"}, "mini": {"b"}} and list(needs) == ["a", "b", "mini"]
    assert downstream(["b", "other"], needs) == {"b", "mini"}
    assert downstream([], needs) == set()
    assert needed(read_stages(checkout, "mini"), "none") == {}


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
    with pytest.raises(FeatspaceError, match="^dvc status --json --with-deps huge: failed; what it printed is above$"):
        run_repro(checkout, "huge", 1)
    with pytest.raises(UsageError, match="^both: no stage of dvc.yaml writes data/both; name another profile$"):
        run_repro(checkout, "both", 1)
