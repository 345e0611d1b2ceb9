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

from featspace.utils.errors import UsageError, one_line

PRIORS = Path("src/featspace/priors")
"""Whoever makes an image needs a prior: a stage that depends on this room decodes, or trains."""


class Stage(NamedTuple):
    name: str
    says: str  # what it does; empty if dvc.yaml does not say
    commands: list[list[str]]  # in words
    deps: list[Path]  # relative to the checkout, as the next
    outs: list[Path]
    needs: set[str]  # the stages whose outputs it depends on, by name

    @property
    def decodes(self) -> bool:
        return PRIORS in self.deps


def read_stages(root: Path, profile: str) -> list[Stage]:
    """The stages of `root`'s dvc.yaml that write in data/<profile> or figures/<profile>, each after those it needs.

    They are read in a folder of their own: nothing is written in `root`, and no settings of DVC there are followed.
    Raises UsageError if dvc.yaml, or the params.yaml that it takes values from, says no pipeline.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo  # takes a second

    with TemporaryDirectory(prefix="featspace-") as name:
        folder, found = Path(name).resolve() / "pipeline", []
        (folder / ".dvc").mkdir(parents=True)
        for file in ("dvc.yaml", "params.yaml"):
            if (root / file).is_file():
                shutil.copyfile(root / file, folder / file)
        settings = {"no_scm": True, "site_cache_dir": str(folder.parent / "cache")}
        try:
            with Repo(folder, config={"core": settings}) as repo:
                needs = {stage: set(repo.index.graph.successors(stage)) for stage in repo.index.stages}
                for stage in TopologicalSorter(needs).static_order():
                    deps, outs = ([Path(x.fs_path).relative_to(folder) for x in y] for y in (stage.deps, stage.outs))
                    if any(is_of(profile, out) for out in outs):
                        commands = [stage.cmd] if isinstance(stage.cmd, str) else stage.cmd or []
                        words = [shlex.split(command) for command in commands]
                        before = {other.name for other in needs[stage]}
                        found.append(Stage(stage.name, stage.desc or "", words, deps, outs, before))
        except (DvcException, ValueError) as error:  # the latter of a path outside, and of a quote that is not closed
            raise UsageError(f"{root / 'dvc.yaml'}: {one_line(error)}; mend it") from error
    return found


def is_of(profile: str, path: Path) -> bool:
    return any(path.is_relative_to(f"{top}/{profile}") for top in ("data", "figures"))


def build_command(profile: str) -> str:
    """What builds a profile; `make repro` builds mini with as many threads as what is committed was built with."""
    return "make repro" if profile == "mini" else f"dvc repro {profile}"


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
