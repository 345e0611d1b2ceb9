"""The stages of dvc.yaml as DVC reads them, and a folder in which they run without touching the checkout."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from graphlib import TopologicalSorter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

PRIORS = Path("src/featspace/priors")
"""Whoever makes an image needs a prior: a stage that depends on this room decodes, or trains."""


class Stage(NamedTuple):
    name: str
    commands: list[list[str]]  # in words
    outs: list[Path]  # relative to the checkout
    decodes: bool


def read_stages(root: Path, profile: str) -> list[Stage]:
    """The stages of `root`'s dvc.yaml that write in data/<profile> or figures/<profile>, each after those it needs."""
    from dvc.repo import Repo  # takes a second

    root, found = root.resolve(), []
    with Repo(root, config={"core": {"no_scm": True}}) as repo:
        needs = {stage: set(repo.index.graph.successors(stage)) for stage in repo.index.stages}
        for stage in TopologicalSorter(needs).static_order():
            outs = [Path(out.fs_path).relative_to(root) for out in stage.outs]
            if Path(stage.path) != root / "dvc.yaml" or not any(is_of(profile, out) for out in outs):
                continue
            commands = [stage.cmd] if isinstance(stage.cmd, str) else stage.cmd
            decodes = any(Path(dep.fs_path) == root / PRIORS for dep in stage.deps)
            found.append(Stage(stage.name, [shlex.split(command) for command in commands], outs, decodes))
    return found


def is_of(profile: str, path: Path) -> bool:
    return any(path.is_relative_to(f"{top}/{profile}") for top in ("data", "figures"))


@contextmanager
def copy_of(root: Path, profile: str, outs: list[Path]) -> Iterator[Path]:
    """A temporary folder with links to all of the checkout, but of what the profile's stages wrote only to `outs`.

    What is written there stays there.
    """
    root = root.resolve()
    with TemporaryDirectory(prefix="featspace-") as name:
        copy = Path(name).resolve()
        for top in sorted(root.iterdir()):
            if top.name == "data" and top.is_dir():
                (copy / "data").mkdir()
                for path in top.iterdir():
                    if path.name != profile:
                        (copy / "data" / path.name).symlink_to(path)
            elif top.name != "figures" and not top.name.startswith("."):
                (copy / top.name).symlink_to(top)
        for out in outs:
            link(root / out, copy / out)
        yield copy


def link(path: Path, place: Path) -> None:
    """Puts a link to `path` in place of what may be there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.symlink_to(path)
