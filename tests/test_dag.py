"""The Snakefile's rules are dvc.yaml's stages."""

from __future__ import annotations

import json
import operator
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
from snakemake.api import OutputSettings, ResourceSettings, SnakemakeApi
from snakemake.rules import Rule
from snakemake.settings.enums import Quietness
from toy_pipeline import PROJECT, toy

from featspace.config.params import Params


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
        named = {name: rule.resources[name] for name in meta if name in rule.resources}
        assert named == {name: amount for name, amount in meta.items() if amount}


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
def test_the_sums_are_never_older_than_a_file_that_they_are_of(profile: str, project: Parsed) -> None:
    """A figure's code may change one figure alone, of which the stage that sums all files need not know."""
    stage, summed = project.stages[profile], (f"data/{profile}", f"figures/{profile}")
    deps = [str(dep) for dep in stage.deps]
    outs = {str(out) for other in project.stages.values() if other is not stage for out in other.outs}
    unknown = {out for out in outs if out.startswith(summed) and not any(Path(out).is_relative_to(d) for d in deps)}
    assert stage.always_changed or not unknown, sorted(unknown)


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
