"""DVC and Snakemake build the same, and again what a change reaches, in a source archive too."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML
from scmrepo.git import Git
from toy_pipeline import PARAMS, PROJECT, toy

from featspace.cli import main


def snakemake(folder: Path, *args: str) -> tuple[set[str], str]:
    """Builds `mini` with Snakemake; the names of the rules that ran, and what was printed."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "mini", *args]
    tools = str(Path(sys.executable).parent)  # where `featspace` is, which the Snakefile is to find by itself
    environment = os.environ | {"PATH": ":".join(each for each in os.environ["PATH"].split(":") if each != tools)}
    given = {"cwd": folder, "env": environment, "text": True}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **given)
    assert done.returncode == 0, done.stdout
    return set(re.findall(r"^(?:local)?rule (.+):$", done.stdout, re.MULTILINE)), done.stdout


def outputs(folder: Path) -> dict[str, bytes]:
    files = [path for top in ("data", "figures") for path in (folder / top).rglob("*") if path.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if p.name != ".snakemake_timestamp"}


ALL = {"targets", "decode@clip", "decode@vit", "table", "figure@clip", "figure@vit", "mini"}
REACHED = {"decode@vit", "table", "figure@vit", "mini"}
"""By the parameter `steps.vit`."""


@pytest.fixture(scope="module")
def by_dvc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy as DVC builds it; to be copied, not changed."""
    folder = toy(tmp_path_factory.mktemp("dvc") / "toy")
    with chdir(folder), Repo(".") as repo:
        repo.reproduce("mini")
    return folder


@pytest.fixture(scope="module")
def by_snakemake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy as Snakemake builds it; to be copied, not changed."""
    folder = toy(tmp_path_factory.mktemp("snakemake") / "toy")
    ran, printed = snakemake(folder)
    assert ran == ALL
    # What a command prints is on the terminal, and is kept.
    assert "counted 42\n" in printed
    assert (folder / ".snakemake/logs/table.log").read_text() == "counted 42\n"
    return folder


def test_both_build_the_same(by_dvc: Path, by_snakemake: Path) -> None:
    assert outputs(by_snakemake) == outputs(by_dvc)
    assert len(outputs(by_dvc)) == 9


def test_only_what_a_parameter_reaches_runs_again(
    by_snakemake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(by_snakemake, tmp_path / "toy"))
    Path("params.yaml").write_text(PARAMS.replace("vit: 3", "vit: 4"))
    assert snakemake(Path())[0] == REACHED
    assert Path("data/decoded/vit/a.png").read_text().count("vit: 4") == 1
    with Repo(".") as repo:
        repo.commit(force=True)
    with Repo(".") as repo:
        assert repo.status() == {}
        assert repo.reproduce("mini") == []


@pytest.mark.parametrize("is_archive", [True, False])
def test_what_make_prepares_builds_in_a_source_archive_too(tmp_path: Path, is_archive: bool) -> None:
    """The environment is this one; `make env` links it where it would be installed."""
    folder, tools = toy(tmp_path / "toy"), tmp_path / "tools"
    (folder / ".dvc/config").write_text((PROJECT / ".dvc/config").read_text())
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(PROJECT / name, folder)
    if not is_archive:
        Git.init(str(folder)).close()
    tools.mkdir()
    here = Path(sys.executable).parent
    (tools / "uv").write_text(f'#!/bin/sh\n[ "$1" != venv ] || mkdir -p .venv && ln -sfn {here} .venv/bin\necho uv\n')
    (tools / "uv").chmod(0o755)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}
    for command in (["make", "env"], [".venv/bin/dvc", "repro", "mini"], [".venv/bin/snakemake", "-nc", "2", "mini"]):
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "figures/ALL").is_file() and (folder / ".dvc/config.local").exists() == is_archive


def test_snakemake_takes_over_what_dvc_built(by_dvc: Path, tmp_path: Path) -> None:
    """`snakemake --touch -F` records it, parameters included."""
    folder = shutil.copytree(by_dvc, tmp_path / "toy")
    assert snakemake(folder, "--touch", "-F")[0] == ALL
    assert outputs(folder) == outputs(by_dvc)
    (folder / "params.yaml").write_text(PARAMS.replace("vit: 3", "vit: 4"))
    assert snakemake(folder, "--dry-run")[0] == REACHED


def test_an_experiment_changes_what_its_parameter_reaches(
    by_dvc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dvc exp run -S steps.vit=4 mini`, which needs a commit to start from."""
    monkeypatch.chdir(shutil.copytree(by_dvc, tmp_path / "toy"))
    Path(".dvc/config").write_text("")
    Path(".gitignore").write_text("/data\n/figures\n")
    git = Git.init(".")
    git.add([".gitignore", ".dvcignore", "dvc.lock", "dvc.yaml", "params.yaml", "models/clip/w", "models/vit/w"])
    git.commit("Built")
    git.close()
    with Repo(".") as repo:
        assert repo.experiments.run(targets=["mini"], params=["steps.vit=4"])
        assert len(repo.experiments.ls()) == 1
    before, after = outputs(by_dvc), outputs(Path())
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"data/decoded/vit/a.png", "figures/table.csv", "figures/vit.png", "figures/ALL"}
    assert before.keys() == after.keys()


@pytest.mark.parametrize("shards", ["0", "a"])
def test_a_number_of_shards_that_cannot_be_is_one_line(by_dvc: Path, shards: str) -> None:
    command = [sys.executable, "-m", "snakemake", "-nc", "1", "mini", "--config", f"shards={shards}"]
    done = subprocess.run(command, cwd=by_dvc, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = f"--config shards={shards}: not a whole number from 1; name one, such as shards=8"
    assert done.returncode == 1 and said in done.stdout and "Traceback" not in done.stdout, done.stdout


DECODE = (
    "featspace decode data/features.safetensors --encoder resnet --layer layer1 --preset fast --evaluations 2 --batch 2"
)
FEATURES = "featspace features --encoder resnet --layer layer1 --targets data/targets --out data/features.safetensors"


def test_a_build_in_shards_is_the_build(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a stage that makes features and decodes them; one that only decodes, and one of one target, are planned."""
    monkeypatch.chdir(shutil.copytree(project, tmp_path / "split"))
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text("[core]\n    no_scm = true\n")
    for name in ("Snakefile", ".dvcignore"):
        shutil.copy(PROJECT / name, ".")
    main(["targets", "--out", "data/targets"])
    commands = [FEATURES, f"{DECODE} --out data/layer"]
    stages = {
        "layer": {"cmd": commands, "deps": ["data/targets"], "outs": ["data/features.safetensors", "data/layer/"]},
        "mini": {"cmd": "cat data/layer/decoded.csv > data/ALL", "deps": ["data/layer"], "outs": ["data/ALL"]},
        "alone": {"cmd": f"{DECODE} --out data/alone", "outs": ["data/alone/"]},
        "cat": {"cmd": f"{DECODE} --target cat --out data/cat", "outs": ["data/cat/"]},
    }
    for stage in stages.values():
        stage |= {"params": ["seed", "mini.decode"], "meta": {"threads": 1, "mem_mb": 500}}
    YAML(typ="safe").dump({"stages": stages}, Path("dvc.yaml"))
    with chdir(shutil.copytree(Path(), tmp_path / "whole")):
        for command in commands:
            main(command.split()[1:])
        shutil.copy("data/layer/decoded.csv", "data/ALL")
    split = ["--config", "shards=2"]
    ran, _ = snakemake(Path(), *split)
    assert ran == {"layer-before", "layer-1", "layer-2", "layer", "mini"}
    assert outputs(Path()) == outputs(tmp_path / "whole")
    assert not Path(".snakemake/shards").exists()
    with Repo(".") as repo:
        repo.commit("mini", with_deps=True, force=True)
        assert repo.status("mini", with_deps=True) == {}
    assert snakemake(Path(), "alone", "cat", "--dry-run", *split)[0] == {"alone-1", "alone-2", "alone", "cat"}
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("seed: 0", "seed: 1"))
    assert snakemake(Path(), "--dry-run", *split)[0] == ran
