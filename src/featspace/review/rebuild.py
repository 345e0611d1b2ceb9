"""The stages of a profile by DVC, those side by side that do not wait for one another: `featspace repro`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from graphlib import TopologicalSorter
from pathlib import Path
from urllib.parse import quote

import psutil
import torch

from featspace.review.stages import Stage, read_stages
from featspace.utils.devices import GIB, free_memory
from featspace.utils.errors import FeatspaceError, UsageError
from featspace.utils.locks import alone

THREADS = 2
"""Of each stage, whatever the number of cores: what threads add up is rounded by how many they are."""
MEMORY = 3 * GIB
"""What a stage of the profile mini takes, at most."""
QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Of a container: microseconds of all cores together, or max, in a period of so many."""
LOGS = Path(".dvc/tmp/featspace-logs")
"""In the project: what each stage printed, when it last ran."""
GRACE = 15.0
"""Seconds that a DVC that is to end, and has no stage running, is given to save what it has."""


def run_repro(root: Path, profile: str, jobs: int | None = None, report: Callable[[str], None] = print) -> None:
    """What `dvc repro <profile>` does, `jobs` stages at once; by default as many as cores and free memory are for.

    Of what the stage `profile` needs, each that is to run, and those after it, is left to `dvc repro --single-item`
    once what it needs is there. As each ends, a line is reported. If one fails, what it printed is, no other begins,
    and those that run are waited for. Raises UsageError where there is no pipeline or profile, or another such run,
    FeatspaceError if DVC or a stage fails.
    """
    if not (root / "dvc.yaml").is_file():
        raise UsageError(f"{root / 'dvc.yaml'}: not there; run this in a checkout of featspace")
    dvc = _Dvc(root, at_once() if jobs is None else jobs, report)
    with alone(root / "data" / profile):
        said = dvc("status", "--json", "--with-deps", profile).splitlines()  # warnings too
        changed = json.loads(next(line for line in said if line.startswith("{")))
        needs = needed(read_stages(root, profile), profile)
        if not needs:
            raise UsageError(f"{profile}: no stage of dvc.yaml writes data/{profile}; name another profile")
        if todo := downstream(changed, needs):
            report(f"{len(todo)} stages to run or to check, {dvc.jobs} at once; what each prints is in {LOGS}")
            dvc.run({name: others & todo for name, others in needs.items() if name in todo})
        dvc("repro", profile)
    report(f"{profile} is up to date")


def needed(stages: Iterable[Stage], target: str) -> dict[str, set[str]]:
    """Of the stage `target` and each that it needs, in their order, which of these it needs itself."""
    found, names = dict[str, set[str]](), {target}
    for stage in reversed(list(stages)):  # each comes before those that need it
        if stage.name in names:
            found[stage.name] = stage.needs
            names |= stage.needs
    return {name: needs & found.keys() for name, needs in reversed(found.items())}


def downstream(names: Iterable[str], needs: Mapping[str, set[str]]) -> set[str]:
    """Those of `names` that `needs` knows, and all that need them; it has each stage after those that it needs."""
    found = set(names) & needs.keys()
    for name, others in needs.items():
        if others & found:
            found.add(name)
    return found


def at_once() -> int:
    """How many stages run at once: on two cores two already, as one thread does much of a stage; on a GPU one."""
    if torch.cuda.is_available():
        return 1
    room = free_memory(torch.device("cpu")) // MEMORY
    return max(1, min(max(2, cores() // THREADS), room))


def cores() -> int:
    """Processor cores that are for this process to use, within the container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = QUOTA.read_text().split() if QUOTA.is_file() else ("max", "")
    return count if quota == "max" else max(1, min(count, int(quota) // int(period)))


class _Dvc:
    """DVC in a checkout, at most `jobs` of its stages at once."""

    def __init__(self, root: Path, jobs: int, report: Callable[[str], None]):
        self.root, self.jobs, self.report = root, jobs, report
        # The commands of the stages lie beside the Python that runs this, in a folder that need not be on PATH.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        self.environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": str(THREADS)}
        if jobs * THREADS > cores():  # who waits for work is to leave the core to others
            self.environment["OMP_WAIT_POLICY"] = "passive"
        self.children: set[subprocess.Popen] = set()
        self.ending = False

    def run(self, needs: dict[str, set[str]]) -> None:
        """Runs the stages, each after those that it needs; first those for which the most others wait."""
        sorter, running, count = TopologicalSorter(needs), dict[Future[float], str](), 0
        sorter.prepare()
        ready: list[str] = []
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                while sorter.is_active():
                    ready = sorted([*ready, *sorter.get_ready()], key=lambda name: -len(downstream([name], needs)))
                    while ready and len(running) < self.jobs:
                        name = ready.pop(0)
                        running[pool.submit(self._timed, name)] = name
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        name, seconds, count = running.pop(future), future.result(), count + 1
                        self.report(f"[{count}/{len(needs)}] {name}: {seconds:.0f} s")
                        sorter.done(name)
            except FeatspaceError:
                self._await(running)
                raise
            except BaseException:  # told to end, as by Ctrl-C
                self._end(running)
                raise

    def _await(self, running: Mapping[Future[float], str]) -> None:
        """After a failure: waits for what runs, and says so."""
        try:
            left = {future: name for future, name in running.items() if not future.cancel()}
            for future, name in left.items():
                if not future.done():
                    self.report(f"waiting for {name} to end")
                if (error := future.exception()) is not None and not isinstance(error, FeatspaceError):
                    raise error
        except BaseException:
            self._end(running)
            raise

    def _end(self, running: Iterable[Future[float]] = ()) -> None:
        """Ends the stages: they clean up, and leave what the next run goes on from.

        DVC ends when its stage does. It is not told to, but for one that goes on: it may just be writing dvc.lock.
        """
        self.ending, told, since = True, set[int](), time.monotonic()
        for future in running:
            future.cancel()
        while alive := [child for child in list(self.children) if child.poll() is None]:
            late = time.monotonic() - since > GRACE
            for child in alive:
                with suppress(psutil.NoSuchProcess):
                    process = psutil.Process(child.pid)
                    stages = process.children(recursive=True)
                    for one in stages or ([process] if late else []):
                        if one.pid not in told:
                            told.add(one.pid)
                            one.terminate()
            time.sleep(0.05)

    def _timed(self, name: str) -> float:
        start = time.monotonic()
        log = self.root / LOGS / f"{quote(name, safe='')}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(self("--wait-for-lock", "repro", "--single-item", name), encoding="utf-8")
        return time.monotonic() - start

    def __call__(self, *words: str) -> str:
        """What a command of DVC prints. Raises FeatspaceError if it fails, after that is reported."""
        if self.ending:
            return ""
        with subprocess.Popen(
            [sys.executable, "-m", "dvc", *words],
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that it is told to end by `_end` alone, once
        ) as child:
            self.children.add(child)
            try:
                printed = _as_shown(child.communicate()[0].decode(errors="backslashreplace"))
            except BaseException:
                self._end()
                raise
            finally:
                self.children.discard(child)
        if child.returncode and not self.ending:
            self.report(printed)
            raise FeatspaceError(f"dvc {' '.join(words)}: failed; what it printed is above")
        return printed


def _as_shown(printed: str) -> str:
    """The lines as a terminal shows them in the end: of what a carriage return overwrites, the last."""
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in printed.rstrip().split("\n"))
