"""Every stage depends on all the code that its command runs, and on none besides.

`featspace.cli` and `featspace/__init__.py` are glue, which no stage depends on. A package's own file counts where
something is imported from it.
"""

from __future__ import annotations

import dis
import inspect
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType

import grimp
import pytest
import typer
from dvc.repo import Repo
from dvc.stage import PipelineStage

from featspace.cli import app
from featspace.figures import FIGURES, LAYERS, OVERVIEW, overview

PROJECT = Path(__file__).parents[2]
PACKAGES = {"featspace": PROJECT / "src", "featspace_training": PROJECT / "training"}
GLUE = "featspace"
FILES = ["dvc.yaml", "bench/dvc.yaml", "training/dvc.yaml"]
BY_NAME = {
    "featspace.figures": {name: draw.__module__ for name, draw in {**FIGURES, **LAYERS, OVERVIEW: overview.draw}.items()},
    "featspace_training.__main__": {
        name: f"featspace_training.{module}"
        for name, module in {"vae": "vae", "vit": "classifier", "clip": "clip", "prior": "prior"}.items()
    },
}
"""Modules that import several and run the one that the command's first argument names."""


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    """Who imports whom, inside of functions too; what serves type checkers alone is left out."""
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
    adapters = "featspace.encoders.adapters"
    for adapter in graph.find_children(adapters):  # imported by their names
        graph.add_import(importer="featspace.encoders.encoder", imported=adapter)
    return graph


@pytest.fixture(scope="module", params=FILES)
def stages(request: pytest.FixtureRequest) -> Iterator[list[PipelineStage]]:
    file = PROJECT / request.param
    with Repo(PROJECT / "training" if request.param.startswith("training") else PROJECT) as repo:
        yield [stage for stage in repo.index.stages if Path(stage.path) == file]


def globals_of(code: CodeType) -> set[str]:
    """Names of the module that a function uses, inner functions included."""
    own = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    return own.union(*(globals_of(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def imported_inside(function: FunctionType, graph: grimp.ImportGraph) -> set[str]:
    """The modules that a function of the command line imports, and the functions there that it calls."""
    lines, first = inspect.getsourcelines(function)
    found = {
        module
        for module in graph.find_modules_directly_imported_by(function.__module__)
        for place in graph.get_import_details(importer=function.__module__, imported=module)
        if first <= place["line_number"] < first + len(lines)
    }
    used = [vars(sys.modules[function.__module__]).get(name) for name in globals_of(function.__code__)]
    helpers = [x for x in used if isinstance(x, FunctionType) and x.__module__.startswith("featspace.cli")]
    return found.union(*(imported_inside(helper, graph) for helper in helpers))


def started_by(command: str, graph: grimp.ImportGraph) -> tuple[set[str], str]:
    """The modules that a shell command starts with, and the argument after its name."""
    program, *words = shlex.split(command)
    if program == "python":
        module = words[1] if "." in words[1] else f"{words[1]}.__main__"
        return {module}, words[2]
    assert program == "featspace", command
    found = typer.main.get_command(app)
    while hasattr(found, "commands"):
        found = found.commands[words.pop(0)]
    return imported_inside(inspect.unwrap(found.callback), graph), words[0]


def run_by(command: str, graph: grimp.ImportGraph) -> set[Path]:
    """The files of a shell command's import closure."""
    started, argument = started_by(command, graph)
    assert started, f"{command} imports nothing"
    found, waiting = set(), [*started]
    while waiting:
        if (module := waiting.pop()) in found or module == GLUE:
            continue
        found.add(module)
        others = {module for name, module in BY_NAME.get(module, {}).items() if name != argument}
        waiting += graph.find_modules_directly_imported_by(module) - others
    return {file_of(module) for module in found}


def file_of(module: str) -> Path:
    path = PACKAGES[module.partition(".")[0]].joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def code_of(stage: PipelineStage, graph: grimp.ImportGraph) -> set[Path]:
    commands = [stage.cmd] if isinstance(stage.cmd, str) else stage.cmd
    return set().union(*(run_by(command, graph) for command in commands))


def dependencies_of(stage: PipelineStage) -> list[Path]:
    """Files and folders, where links lead."""
    return [Path(dep.fs_path).resolve() for dep in stage.deps if dep not in stage.params]


def is_code(path: Path) -> bool:
    return any(path.is_relative_to(folder / name) for name, folder in PACKAGES.items())


def uncovered(files: set[Path], dependencies: list[Path]) -> list[str]:
    """The files that lie in none of the dependencies."""
    gaps = [file for file in files if not any(file.is_relative_to(dep) for dep in dependencies)]
    return sorted(str(file.relative_to(PROJECT)) for file in gaps)


def test_a_stage_depends_on_all_that_it_imports(stages: list[PipelineStage], imports: grimp.ImportGraph) -> None:
    gaps = {stage.name: uncovered(code_of(stage, imports), dependencies_of(stage)) for stage in stages}
    assert not {name: files for name, files in gaps.items() if files}


def test_a_stage_depends_on_no_other_code(stages: list[PipelineStage], imports: grimp.ImportGraph) -> None:
    """Without any one of its dependencies on code, something that it imports is not covered."""
    idle = {}
    for stage in stages:
        files, dependencies = code_of(stage, imports), dependencies_of(stage)
        for dep in filter(is_code, dependencies):
            if not uncovered(files, [other for other in dependencies if other != dep]):
                idle.setdefault(stage.name, []).append(str(dep.relative_to(PROJECT)))
    assert not idle


def test_code_that_is_depended_on_exists(stages: list[PipelineStage]) -> None:
    named = {dep for stage in stages for dep in dependencies_of(stage) if is_code(dep) or dep.suffix == ".lock"}
    assert named
    assert not [str(dep.relative_to(PROJECT)) for dep in sorted(named) if not dep.exists()]


def test_a_stage_depends_on_the_pinned_packages(stages: list[PipelineStage]) -> None:
    assert not [stage.name for stage in stages if PROJECT / "requirements.lock" not in dependencies_of(stage)]
