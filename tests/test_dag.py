"""The Snakefile's rules are dvc.yaml's stages, and both tools build the same from them."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.repo import Repo
from dvc.stage import PipelineStage
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
    cmd: [mkdir -p figures, cat data/decoded/*/a.png > figures/table.csv, echo 1 > figures/metrics.json]
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


def parse_rules() -> dict[str, Rule]:
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        workflow = api.workflow(ResourceSettings(cores=1), snakefile=Path("Snakefile"))._workflow
        return {rule.name: rule for rule in workflow.rules if rule.name != "all"}


def parse_stages(repo: Repo) -> dict[str, PipelineStage]:
    """The root's stages; training/dvc.yaml is a pipeline of its own."""
    file = str(Path(repo.root_dir, "dvc.yaml"))
    return {stage.name: stage for stage in repo.index.stages if stage.path == file}


@pytest.fixture(params=["project", "toy"])
def repo(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repo]:
    monkeypatch.chdir(PROJECT if request.param == "project" else toy(tmp_path / "toy"))
    with Repo(".") as repo:
        yield repo


def overlap(path: str, other: str) -> bool:
    return Path(path).is_relative_to(other) or Path(other).is_relative_to(path)


def test_every_rule_is_a_stage(repo: Repo) -> None:
    rules, stages = parse_rules(), parse_stages(repo)
    assert list(rules) == list(stages)
    for name, stage in stages.items():
        rule = rules[name]
        files = [str(dep) for dep in stage.deps if dep not in stage.params]
        assert {str(path) for path in rule.output} == {str(out) for out in stage.outs}
        assert all(any(overlap(path, file) for file in files) for path in rule.input), name
        assert all(any(overlap(path, file) for path in rule.input) for file in files), name
        assert rule.shellcmd == "{params.cmd}"
        assert rule.params.cmd(None) == (stage.cmd if isinstance(stage.cmd, str) else "\n".join(stage.cmd))
        assert rule.params.parameters == [param.read_params() for param in stage.params]
        meta = {"threads": 1, **(stage.meta or {})}
        assert rule.resources["_cores"] == meta.pop("threads")
        assert {key: rule.resources[key] for key in meta} == meta


def test_edges_agree(repo: Repo) -> None:
    rules, stages = parse_rules(), parse_stages(repo)
    maker = {path: rule.name for rule in rules.values() for path in rule.output}
    snakemake = {(rule.name, maker[path]) for rule in rules.values() for path in rule.input if path in maker}
    dvc = {(a.name, b.name) for a, b in repo.index.graph.edges if a.name in stages and b.name in stages}
    assert snakemake == dvc
    assert len(dvc) >= len(stages) - 1


def test_folders_end_in_a_slash(repo: Repo) -> None:
    """DVC knows a folder once it is built (dvc.lock), Snakemake must know it before."""
    for stage in parse_stages(repo).values():
        for out in stage.outs:
            if out.hash_info:
                assert out.hash_info.isdir == out.def_path.endswith("/"), out.def_path


@pytest.mark.parametrize("profile", ["mini", "paper"])
def test_each_network_of_a_profile_has_its_stages(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    with Repo(".") as repo:
        names = parse_stages(repo).keys()
    own = Params.load().profile(profile)
    wanted = dict.fromkeys(("features", "decode", "references", "similarity"), own.encoders.keys())
    for stage, networks in {**wanted, "featinv": own.featinv.controlnets.keys()}.items():
        start = f"{stage}@{profile}-"
        assert {name.removeprefix(start) for name in names if name.startswith(start)} == set(networks)


def snakemake(*args: str) -> set[str]:
    """Builds `mini` with Snakemake; the names of the rules that ran."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "mini", *args]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(re.findall(r"^(?:local)?rule (.+):$", done.stdout + done.stderr, re.MULTILINE))


def outputs(folder: Path) -> dict[str, bytes]:
    files = [path for top in ("data", "figures") for path in (folder / top).rglob("*") if path.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if p.name != ".snakemake_timestamp"}


def test_both_build_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy(tmp_path / "dvc"))
    with Repo(".") as repo:
        repo.reproduce("mini")
    monkeypatch.chdir(toy(tmp_path / "snakemake"))
    decoded = {"decode@clip", "decode@vit"}
    assert snakemake() == {"targets", *decoded, "table", "figure@clip", "figure@vit", "mini"}
    assert outputs(tmp_path / "snakemake") == outputs(tmp_path / "dvc")
    assert len(outputs(tmp_path / "dvc")) == 9

    # Only what the parameter reaches runs again; all else is up to date.
    Path("params.yaml").write_text(PARAMS.replace("vit: 3", "vit: 4"))
    assert snakemake() == {"decode@vit", "table", "figure@vit", "mini"}
    assert Path("data/decoded/vit/a.png").read_text().count("vit: 4") == 1

    with Repo(".") as repo:
        repo.commit(force=True)
    with Repo(".") as repo:
        assert repo.status() == {}
        assert repo.reproduce("mini") == []


def imported(*modules: str) -> set[str]:
    """The project's files that modules import, at the head or inside of functions, and what these import."""
    found, waiting = set(), list(modules)
    while waiting:
        path = PROJECT / "src" / waiting.pop().replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        name = str(path.relative_to(PROJECT))
        if path.is_file() and name not in found:
            found.add(name)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module.startswith("featspace"):
                    waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


@pytest.mark.parametrize(
    "stages, modules",
    [
        ("layer-", ["featspace.data.features", "featspace.encoders.encoder", "featspace.stages.decode"]),
        ("layers@", ["featspace.stages.layers", "featspace.encoders.encoder", "featspace.utils.devices"]),
        ("layers_figures@", ["featspace.figures"]),
    ],
)
def test_a_stage_depends_on_all_that_it_imports(stages: str, modules: list[str]) -> None:
    with Repo(PROJECT) as repo:
        found = [stage for stage in parse_stages(repo).values() if stage.name.startswith(stages)]
    assert found
    files = {file for file in imported(*modules) if not file.endswith("__init__.py")}
    for stage in found:
        deps = [str(Path(dep.fs_path).relative_to(PROJECT)) for dep in stage.deps if dep not in stage.params]
        missing = [file for file in sorted(files) if not any(Path(file).is_relative_to(dep) for dep in deps)]
        assert not missing, f"{stage.name} imports, but does not depend on, {missing}"
        named = [dep for dep in deps if dep.startswith("src/")]
        assert not (idle := [dep for dep in named if dep not in files and dep.endswith(".py")]), idle
