"""What DVC and Snakemake do where something goes wrong, on the toy pipeline: docs/pipeline.md says it."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from processes import await_that
from toy_pipeline import PROJECT, toy

from featspace.utils.checksums import parse_checksum, write_checksums

SLOW = """stages: {slow: {cmd: "sh -c 'echo $$ > pid; exec sleep 600'", outs: [out.txt]}}\n"""
TOOLS = {"dvc": ["dvc", "repro"], "snakemake": ["snakemake", "-c", "1", "slow"]}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", *words]


def dvc(folder: Path, *words: str) -> str:
    done = subprocess.run(command("dvc", *words), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = toy(tmp_path_factory.mktemp("toy") / "toy")
    dvc(folder, "repro", "-q")
    write_checksums([folder / "data", folder / "figures"], folder / "SHA256SUMS")
    return folder


def objects(folder: Path, file: Path) -> Path:
    digest = hashlib.md5(file.read_bytes()).hexdigest()
    return folder / ".dvc/cache/files/md5" / digest[:2] / digest[2:]


def differing(folder: Path) -> list[str]:
    """What `sha256sum -c SHA256SUMS` would name."""
    lines = map(parse_checksum, (folder / "SHA256SUMS").read_text().splitlines())
    return [name for name, digest in lines if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest]


def test_an_altered_cache_is_found_by_the_checksums_and_made_again_once_it_may_be_written(built, tmp_path):
    folder = Path(shutil.copytree(built, tmp_path / "toy"))
    image = folder / "data/decoded/clip/a.png"
    whole, cached = image.read_bytes(), objects(folder, image)
    assert not differing(folder) and cached.stat().st_mode & 0o222 == 0
    cached.chmod(0o644)
    cached.write_bytes(whole + b"altered")
    cached.chmod(0o444)  # as a disk alters it
    shutil.rmtree(image.parent)
    dvc(folder, "repro")
    assert differing(folder) == ["data/decoded/clip/a.png"]  # DVC believes what is read-only
    subprocess.run(["chmod", "-R", "u+w", ".dvc/cache/files"], cwd=folder, check=True)
    shutil.rmtree(image.parent)
    assert "Running stage 'decode@clip'" in dvc(folder, "repro")
    assert not differing(folder) and cached.read_bytes() == whole


def slow(folder: Path) -> Path:
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    (folder / "dvc.yaml").write_text(SLOW)
    (folder / "params.yaml").write_text("{}\n")
    shutil.copy(PROJECT / "Snakefile", folder)
    return folder


def started(folder: Path, tool: str) -> tuple[subprocess.Popen, psutil.Process]:
    """A tool in a session of its own, and what its stage waits for."""
    (folder / "pid").unlink(missing_ok=True)
    with open(folder / "log", "w") as log:
        words = command(*TOOLS[tool])
        process = subprocess.Popen(words, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    await_that(lambda: (folder / "pid").exists() and (folder / "pid").read_text().strip().isdigit())
    return process, psutil.Process(int((folder / "pid").read_text()))


def is_running(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("tool", TOOLS)
def test_a_signal_to_the_group_ends_the_stages_too_and_the_next_run_is_not_locked_out(tool, number, tmp_path):
    folder = slow(tmp_path / "slow")
    process, stage = started(folder, tool)
    try:
        if (tool, number) == ("dvc", signal.SIGINT):
            second = subprocess.run(command(*TOOLS[tool]), cwd=folder, capture_output=True, text=True)
            assert second.returncode and "out.txt' is busy, it is being blocked by:" in second.stderr
        os.killpg(process.pid, number)  # Ctrl-C, and a scheduler
        await_that(lambda: process.poll() is not None and not is_running(stage))
        assert process.returncode != 0 and not (folder / "out.txt").exists()
        (folder / "dvc.yaml").write_text(SLOW.replace("exec sleep 600", "touch out.txt"))
        words = [*TOOLS[tool], *(["--unlock"] if tool == "snakemake" and process.returncode < 0 else [])]
        done = subprocess.run(command(*words), cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    finally:
        if is_running(stage):
            stage.kill()
        process.kill()
        process.wait()
