"""The pipeline on a real Slurm: the same bytes as elsewhere, and what a job that fails leaves."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML
from slurm import running
from toy_pipeline import PROJECT, toy

pytestmark = pytest.mark.slurm

FAST = ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "1"]
"""As this Slurm has no accounting, and its jobs take seconds."""


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    with running() as env:
        yield env | {"PATH": f"{Path(sys.executable).parent}:{env['PATH']}"}


def snakemake(folder: Path, env: dict[str, str], *args: str) -> tuple[int, str]:
    """With the profile; exit status, and what was printed."""
    shutil.copytree(PROJECT / "profiles", folder / "profiles", dirs_exist_ok=True)
    command = [sys.executable, "-m", "snakemake", "--profile", "profiles/slurm", *FAST, *args]
    done = subprocess.run(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def outputs(folder: Path) -> dict[str, bytes]:
    files = [path for top in ("data", "figures") for path in (folder / top).rglob("*") if path.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if p.name != ".snakemake_timestamp"}


def jobs(env: dict[str, str]) -> dict[str, dict[str, str]]:
    """By their stages, what Slurm was asked for."""
    command = ["scontrol", "show", "job", "--oneliner"]
    lines = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    said = [dict(re.findall(r"([\w/]+)=(\S*)", line)) for line in lines]
    fields = ("CPUs/Task", "MinMemoryNode", "TimeLimit", "TresPerJob")
    return {job["Comment"].removeprefix("rule_"): {name: job[name] for name in fields if name in job} for job in said}


def test_slurm_builds_the_same(slurm: dict[str, str], tmp_path: Path) -> None:
    by_dvc, by_slurm = toy(tmp_path / "dvc"), toy(tmp_path / "slurm")
    with chdir(by_dvc), Repo(".") as repo:
        repo.reproduce("table")
    status, printed = snakemake(by_slurm, slurm, "table")
    assert status == 0, printed
    assert outputs(by_slurm) == outputs(by_dvc) and len(outputs(by_dvc)) == 6
    small = {"CPUs/Task": "1", "MinMemoryNode": "4000M", "TimeLimit": "01:00:00"}
    large = {"CPUs/Task": "2", "MinMemoryNode": "500M", "TimeLimit": "00:05:00", "TresPerJob": "gres:gpu:1"}
    assert jobs(slurm) == {"targets": small, "decode@clip": large, "decode@vit": large, "table": small}


def test_a_failure_is_named_and_keeps_what_is_finished(slurm: dict[str, str], tmp_path: Path) -> None:
    """One job fails, one is killed when its minute is over; the next run builds what is missing."""
    folder = toy(tmp_path / "toy")
    stages = folder / "dvc.yaml"
    right = stages.read_text()
    broken = "echo no such ${item} >&2 && test ${item} = vit && sleep 300 && mkdir -p data/decoded/${item} &&"
    stages.write_text(right.replace("mkdir -p data/decoded/${item} &&", broken))
    status, printed = snakemake(folder, slurm, "table", "--set-resources", "decode@vit:runtime=1")
    assert status == 1, printed
    for name, state in {"clip": "FAILED", "vit": "TIMEOUT"}.items():
        said = re.search(rf"Error in rule decode@{name}:(.*?)external_jobid", printed, re.DOTALL)
        assert said and f"SLURM status is: '{state}'" in said[1], printed
        logs = re.search(r"log: (\S+), (\S+) \(check log", said[1])
        assert logs and (folder / logs[1]).read_text() == f"no such {name}\n"
        assert f"rule_decode@{name}" in logs[2] and Path(logs[2]).is_file()
    assert set(outputs(folder)) == {"data/targets/a.png", "data/targets/targets.csv"}
    assert not (folder / "figures").exists()
    stages.write_text(right)
    status, printed = snakemake(folder, slurm, "table", "--dry-run")
    assert status == 0 and set(re.findall(r"^rule (.+):$", printed, re.MULTILINE)) == {
        "decode@clip",
        "decode@vit",
        "table",
    }


def test_stages_of_the_project_run_on_slurm(slurm: dict[str, str], tmp_path: Path) -> None:
    """Two whose bytes do not depend on the processor give what dvc.lock says."""
    stages, folder = ["fetch@mini", "targets@mini"], tmp_path / "project"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    for name in ("Snakefile", ".dvcignore", "dvc.yaml", "dvc.lock", "params.yaml", "requirements.lock"):
        shutil.copy(PROJECT / name, folder)
    for name in ("src", "data/models"):
        shutil.copytree(PROJECT / name, folder / name)
    shutil.copy(PROJECT / "data/weights.lock", folder / "data")
    before = YAML(typ="safe").load(folder / "dvc.lock")["stages"]
    status, printed = snakemake(folder, slurm, *stages)
    assert status == 0, printed
    with chdir(folder), Repo(".") as repo:
        for stage in stages:
            repo.commit(stage, force=True)
    after = YAML(typ="safe").load(folder / "dvc.lock")["stages"]
    assert {stage: after[stage] for stage in stages} == {stage: before[stage] for stage in stages}
