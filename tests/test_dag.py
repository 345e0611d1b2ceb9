"""The Snakefile's rules are dvc.yaml's stages, and both tools build the same from them."""

from __future__ import annotations

import json
import operator
import os
import re
import shutil
import subprocess
import sys
from contextlib import chdir
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import pytest
from dvc.repo import Repo
from dvc.stage import PipelineStage
from ruamel.yaml import YAML
from scmrepo.git import Git
from snakemake.api import OutputSettings, ResourceSettings, SnakemakeApi
from snakemake.rules import Rule
from snakemake.settings.enums import Quietness

from featspace.config.params import Params

PROJECT = Path(__file__).parents[1]

PARAMS = """
seed: 0
steps:
  clip: 2
  vit: 3
captions: {tabby: "a {photo} of a tabby"}
"""

STAGES = """
stages:
  targets:
    cmd: mkdir -p data/targets && echo a > data/targets/a.png && echo id > data/targets/targets.csv
    params: [seed, captions]
    outs: [data/targets/]
  decode:
    foreach: [clip, vit]
    do:
      cmd: >-
        mkdir -p data/decoded/${item} &&
        cat data/targets/a.png params.yaml models/*/w | awk '/${item}/ {print}' > data/decoded/${item}/a.png
      deps: [models, data/targets/a.png]
      params: [seed, "steps.${item}"]
      outs: ["data/decoded/${item}/"]
      meta: {threads: 2, mem_mb: 500}
  table:
    cmd:
      - mkdir -p figures && echo counted $((40 + 2)) >&2
      - cat data/decoded/*/a.png > figures/table.csv
      - echo 1 > figures/metrics.json
    deps: [data/decoded]
    outs: [figures/table.csv: {cache: false}]
    metrics: [figures/metrics.json: {cache: false}]
  figure:
    matrix: {encoder: [clip, vit]}
    cmd: mkdir -p figures && cat data/decoded/${item.encoder}/a.png > figures/${item.encoder}.png
    deps: ["data/decoded/${item.encoder}"]
    outs: ["figures/${item.encoder}.png": {cache: false}]
  mini:
    cmd: cat figures/table.csv figures/*.png > figures/ALL
    deps: [figures/table.csv, figures/clip.png, figures/vit.png]
    outs: [figures/ALL: {cache: false}]
"""


def toy(folder: Path) -> Path:
    """A small pipeline with all that the project's has: folders, parameters, matrices, uncached outputs."""
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "dvc.yaml").write_text(STAGES)
    for name in ("clip", "vit"):
        (folder / "models" / name).mkdir(parents=True)
        (folder / "models" / name / "w").write_text(name)
    for name in ("Snakefile", ".dvcignore"):
        shutil.copy(PROJECT / name, folder)
    return folder


class Parsed(NamedTuple):
    """A pipeline as both tools read it, by the names of stages and rules."""

    folder: Path
    stages: dict[str, PipelineStage]
    edges: set[tuple[str, str]]  # of DVC: a stage, and one whose outputs it takes
    rules: dict[str, Rule]


def parse(folder: Path) -> Parsed:
    with chdir(folder), Repo(".") as repo:
        # The root's stages; training/dvc.yaml is a pipeline of its own.
        stages = {stage.name: stage for stage in repo.index.stages if Path(stage.path) == folder / "dvc.yaml"}
        edges = {(a.name, b.name) for a, b in repo.index.graph.edges if a.name in stages and b.name in stages}
        with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
            workflow = api.workflow(ResourceSettings(cores=1), snakefile=Path("Snakefile"))._workflow
            return Parsed(folder, stages, edges, {rule.name: rule for rule in workflow.rules if rule.name != "all"})


@pytest.fixture(scope="module")
def project() -> Parsed:
    return parse(PROJECT)


@pytest.fixture(scope="module", params=["project", "toy"])
def parsed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Parsed:
    if request.param == "project":
        return request.getfixturevalue("project")
    return parse(toy(tmp_path_factory.mktemp("parsed") / "toy"))


def overlap(path: str, other: str) -> bool:
    return Path(path).is_relative_to(other) or Path(other).is_relative_to(path)


def test_every_rule_is_a_stage(parsed: Parsed) -> None:
    assert list(parsed.rules) == list(parsed.stages)
    values = YAML(typ="safe").load(parsed.folder / "params.yaml")
    for name, stage in parsed.stages.items():
        rule = parsed.rules[name]
        files, outs = (
            {str(Path(file.fs_path).relative_to(parsed.folder)) for file in some if file not in stage.params}
            for some in (stage.deps, stage.outs)
        )
        assert {str(path) for path in rule.output} == outs
        assert all(any(overlap(path, file) for file in files) for path in rule.input), name
        assert all(any(overlap(path, file) for path in rule.input) for file in files), name
        assert rule.shellcmd == "({params.cmd}) 2>&1 | tee {log}"
        assert rule.params.cmd(None) == (stage.cmd if isinstance(stage.cmd, str) else "\n".join(stage.cmd))
        assert [*rule.log] == [f".snakemake/logs/{name}.log"]
        read = [{key: reduce(operator.getitem, key.split("."), values) for key in deps.params} for deps in stage.params]
        assert rule.params.parameters == read
        meta = {"threads": 1, **(stage.meta or {})}
        assert rule.resources["_cores"] == meta.pop("threads")
        assert {key: rule.resources[key] for key in meta} == meta


def test_edges_agree(parsed: Parsed) -> None:
    maker = {path: rule.name for rule in parsed.rules.values() for path in rule.output}
    snakemake = {(rule.name, maker[path]) for rule in parsed.rules.values() for path in rule.input if path in maker}
    assert snakemake == parsed.edges
    assert len(parsed.edges) >= len(parsed.stages) - 1


def test_folders_end_in_a_slash(parsed: Parsed) -> None:
    """DVC knows a folder once it is built (dvc.lock), Snakemake must know it before."""
    for stage in parsed.stages.values():
        for out in stage.outs:
            if out.hash_info:
                assert out.hash_info.isdir == out.def_path.endswith("/"), out.def_path


@pytest.mark.parametrize("profile", ["mini", "paper"])
def test_each_network_of_a_profile_has_its_stages(profile: str, project: Parsed) -> None:
    own = Params.load(PROJECT / "params.yaml").profile(profile)
    wanted = dict.fromkeys(("features", "decode", "references", "similarity"), own.encoders.keys())
    for stage, networks in {**wanted, "featinv": own.featinv.controlnets.keys()}.items():
        start = f"{stage}@{profile}-"
        assert {name.removeprefix(start) for name in project.stages if name.startswith(start)} == set(networks)


@pytest.mark.parametrize("folder", [PROJECT, PROJECT / "training"], ids=["dvc.yaml", "training/dvc.yaml"])
def test_plots_are_of_tables_that_are_there(folder: Path) -> None:
    command = [sys.executable, "-m", "dvc", "plots", "show", "--json"]
    shown = json.loads(subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, check=True).stdout)
    assert shown["data"] and "errors" not in shown
    for name, plots in shown["data"].items():
        assert len(plots) == 1 and plots[0]["content"]["data"]["values"], name


def snakemake(folder: Path, *args: str) -> tuple[set[str], str]:
    """Builds `mini` with Snakemake; the names of the rules that ran, and what was printed."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "mini", *args]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
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
