"""Every stage depends on all the code that its command runs, and on none besides.

`featspace.cli` and `featspace/__init__.py` are glue, which no stage depends on. A package's own file counts where
something is imported from it.
"""

from __future__ import annotations

import dis
import inspect
import shlex
import sys
from pathlib import Path
from types import CodeType, FunctionType
from typing import NamedTuple

import grimp
import pytest
import typer
from dvc.repo import Repo

from featspace.cli import app

PROJECT = Path(__file__).parents[2]
PACKAGES = {"featspace": PROJECT / "src", "featspace_training": PROJECT / "training"}
GLUE = "featspace"
COMMANDS = typer.main.get_command(app)
FILES = ["dvc.yaml", "bench/dvc.yaml", "training/dvc.yaml"]
BY_NAME = {
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


class Stage(NamedTuple):
    code: set[Path]  # the files that its commands run
    dependencies: list[Path]  # files and folders, where links lead


@pytest.fixture(scope="module", params=FILES)
def stages(request: pytest.FixtureRequest, imports: grimp.ImportGraph) -> dict[str, Stage]:
    """By their names in dvc.yaml."""
    file, closures = PROJECT / request.param, {}
    with Repo(PROJECT / "training" if request.param.startswith("training") else PROJECT) as repo:
        found = {}
        for stage in repo.index.stages:
            if Path(stage.path) == file:
                commands = [stage.cmd] if isinstance(stage.cmd, str) else stage.cmd
                started = [started_by(command, imports) for command in commands]
                for start in started:
                    closures[start] = closures.get(start) or run_by(*start, imports)
                dependencies = [Path(dep.fs_path).resolve() for dep in stage.deps if dep not in stage.params]
                found[stage.name] = Stage(set().union(*(closures[start] for start in started)), dependencies)
    return found


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


def started_by(command: str, graph: grimp.ImportGraph) -> tuple[frozenset[str], str]:
    """The modules that a shell command starts with, and the argument after its name."""
    program, *words = shlex.split(command)
    if program == "python":
        module = words[1] if "." in words[1] else f"{words[1]}.__main__"
        return frozenset({module}), words[2]
    assert program == "featspace", command
    found = COMMANDS
    while hasattr(found, "commands"):
        found = found.commands[words.pop(0)]
    return frozenset(imported_inside(inspect.unwrap(found.callback), graph)), words[0]


def run_by(started: frozenset[str], argument: str, graph: grimp.ImportGraph) -> set[Path]:
    """The files of the import closure of a command."""
    assert started
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


def is_code(path: Path) -> bool:
    return any(path.is_relative_to(folder / name) for name, folder in PACKAGES.items())


def uncovered(files: set[Path], dependencies: list[Path]) -> list[str]:
    """The files that lie in none of the dependencies."""
    gaps = [file for file in files if not any(file.is_relative_to(dep) for dep in dependencies)]
    return sorted(str(file.relative_to(PROJECT)) for file in gaps)


def test_a_stage_depends_on_all_that_it_imports(stages: dict[str, Stage]) -> None:
    gaps = {name: uncovered(stage.code, stage.dependencies) for name, stage in stages.items()}
    lines = [f"{name} does not depend on {', '.join(files)}" for name, files in gaps.items() if files]
    assert not lines, "\n".join(lines)


def test_a_stage_depends_on_no_other_code(stages: dict[str, Stage]) -> None:
    """Without any one of its dependencies on code, something that it imports is not covered."""
    lines = []
    for name, stage in stages.items():
        for dep in filter(is_code, stage.dependencies):
            if not uncovered(stage.code, [other for other in stage.dependencies if other != dep]):
                lines.append(f"{name} does not run {dep.relative_to(PROJECT)}")
    assert not lines, "\n".join(lines)


def test_code_that_is_depended_on_exists(stages: dict[str, Stage]) -> None:
    named = [(name, dep) for name, stage in stages.items() for dep in stage.dependencies]
    named = [(name, dep) for name, dep in named if is_code(dep) or dep.suffix == ".lock"]
    assert named
    lines = [
        f"{name} depends on {dep.relative_to(PROJECT)}, which is not there" for name, dep in named if not dep.exists()
    ]
    assert not lines, "\n".join(lines)


def test_a_stage_depends_on_the_pinned_packages(stages: dict[str, Stage]) -> None:
    assert not [name for name, stage in stages.items() if PROJECT / "requirements.lock" not in stage.dependencies]
