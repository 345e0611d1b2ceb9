"""Every stage lists the parameters that its command reads.

The commands of dvc.yaml and training/dvc.yaml run on tiny models, while each read of a parameter is noted. One that
params.yaml leaves at its default cannot be listed, as DVC wants it there; it counts for the profile that has it.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from dvc.repo import Repo
from dvc.stage import PipelineStage
from ruamel.yaml import YAML

from featspace.cli import main
from featspace.config.params import Params
from featspace.utils.schema import Section

PROJECT = Path(__file__).parents[2]
NETWORK = {"network": "data/models/resnet"}
FEATINV = {
    "prompt": "a photo of a tabby",
    "guidance_scale": 1.5,
    "steps": 2,
    "controlnets": {
        name: {**NETWORK, "folder": f"data/models/featinv/{name}", "input_size": 64} for name in ("efficientnet", "vit")
    },
    "training": {
        "photographs": "training/photographs",
        "crop": 64,
        "epochs": 0.02,
        "batch": 4,
        "hint_width": 8,
        "precision": "float32",
        "workers": 0,
        "validations": 1,
    },
    "evaluation": {"per_class": 1, "shown": 1},
    "together": {"evaluations": 12, "targets": 1},
    "steer": {"strengths": [0.0, 1.0]},
}
MINI = {
    "prior": "data/models/prior",
    "resolution": 64,
    "encoders": {"clip": {"network": "data/models/clip"}, "efficientnet": NETWORK, "vit": NETWORK},
    "judge": "data/models/judge",
    "decode": {"evaluations": 2},
    "photos": {"cat": {"image": "skimage:chelsea"}, "cup": {"image": "skimage:coffee"}},
    "similarity": {"photographs": "data/models/references", "bootstrap": 5},
    "layers": {"efficientnet": {"layer1": 2}},
    "featinv": FEATINV,
}
RUN = [  # one of a kind, in this order, of both files
    "training/featinv@efficientnet",
    "training/featinv@vit",
    "training/featinv_means",
    "training/featinv_evaluation@efficientnet",
    "fetch@mini",
    "targets@mini",
    "features@mini-clip",
    "decode@mini-clip",
    "references@mini-clip",
    "similarity@mini-clip",
    "metrics@mini",
    "layer-mini-efficientnet@layer1",
    "layers@mini-efficientnet",
    "featinv_together@mini",
    "steer@mini",
]
SAME = {
    "featinv": "training/featinv_evaluation",
    "featinv_train": "training/featinv",
    "featinv_means": "training/featinv_means",
}
"""Stages that run what another does."""
PAPER = {"featinv_train", "featinv_means"}
"""Stages of that profile alone."""
OTHERS = {"figure", "overview", "layers_figures", "featinv_figures", "featinv_fetch", "mini", "paper"}
OTHERS |= {f"training/{name}" for name in ("featinv_summary", "samples", "checksums")}
"""Stages whose commands open no parameter file, or nothing of it but what is in the command itself."""
OTHERS |= {"report"}
"""It shows the whole profile, and lists it as such."""
OTHERS |= {f"training/{name}" for name in ("vae", "prior", "clip", "vit", "references", "card")}
"""Those that train need photographs; they read their own recipe and nothing else."""


class Reads:
    """Notes each read of a parameter, as its dotted name."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.names: set[str] = set()
        self.sections: dict[int, tuple[str, Section]] = {}  # kept, so that no other gets the same id
        load, get, dump, copy = Params.load, Section.__getattribute__, Section.model_dump, Section.model_copy

        def loaded(path: Path | None = None) -> Params:
            params = load(path)
            for name, profile in params.profiles.items():
                self.watch(profile, name)
            return params

        def read(section: Section, name: str) -> Any:
            value = get(section, name)
            if name in type(section).model_fields and not _sections(value):
                self.note(section, [name])
            return value

        def dumped(section: Section, **given: Any) -> dict[str, Any]:
            self.note(
                section, set(given.get("include") or type(section).model_fields) - set(given.get("exclude") or ())
            )
            return dump(section, **given)

        def copied(section: Section, **given: Any) -> Section:
            result = copy(section, **given)
            if id(section) in self.sections:
                self.watch(result, self.sections[id(section)][0])
            return result

        def of_file(params: Params, name: str) -> Any:
            if name == "seed":
                self.names.add(name)
            return object.__getattribute__(params, name)

        patch.setattr(Params, "load", loaded)
        patch.setattr(Params, "__getattribute__", of_file)
        patch.setattr(Section, "__getattribute__", read)
        patch.setattr(Section, "model_dump", dumped)
        patch.setattr(Section, "model_copy", copied)

    def note(self, section: Section, names: Iterable[str]) -> None:
        if id(section) in self.sections:  # of params.yaml
            self.names.update(f"{self.sections[id(section)][0]}.{name}" for name in names)

    def watch(self, section: Section, path: str) -> None:
        self.sections[id(section)] = path, section
        for name, value in vars(section).items():
            for key, part in _sections(value).items():
                self.watch(part, ".".join(filter(None, (path, name, key))))


def _sections(value: Any) -> dict[str, Section]:
    """The sections that a value is or holds, by their keys."""
    if isinstance(value, Section):
        return {"": value}
    held = value if isinstance(value, dict) else {}
    return {key: part for key, part in held.items() if isinstance(part, Section)}


def stages_of(folder: Path) -> dict[str, PipelineStage]:
    """The stages of both files, those of the second after `training/`."""
    found = {}
    for start, root in ("", folder), ("training/", folder / "training"):
        with Repo(root) as repo:
            own = [stage for stage in repo.index.stages if Path(stage.path) == root / "dvc.yaml"]
        found |= {f"{start}{stage.name}": stage for stage in own}
    return found


def kind(stage: str) -> str:
    return re.split("@|-mini|-paper", stage)[0]


def general(name: str) -> str:
    """A parameter's name without the profile, and with `*` for the name of a network."""
    name = re.sub("^(mini|paper)[.]", "", name)
    return re.sub(r"\b(encoders|controlnets|layers)\.[^.]+", r"\1.*", name)


@pytest.fixture(scope="module")
def reads(project: Path, toy_photographs: Path) -> dict[str, set[str]]:
    """What the commands of each kind of stage read."""
    values = YAML(typ="safe").load(PROJECT / "params.yaml")
    YAML(typ="safe").dump({**values, "mini": MINI}, project / "params.yaml")
    (project / "data/models/SHA256SUMS").unlink()  # what the first stages write is not in it
    photographs = project / "training/photographs"
    photographs.mkdir(parents=True)
    for split in ("train", "val"):
        few = pd.read_parquet(toy_photographs / f"{split}.parquet")
        pd.concat([few] * 17, ignore_index=True).to_parquet(photographs / f"{split}.parquet")  # 100 and more of a class
    labels = [{"label": i, "name": name} for i, name in enumerate(("tabby", "lion"))]
    (photographs / "classes.json").write_text(json.dumps(labels))
    for folder in (project, project / "training"):
        (folder / ".dvc").mkdir()
        (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n")
        shutil.copy(PROJECT / folder.relative_to(project) / "dvc.yaml", folder)
    stages, found = stages_of(project), {}
    with pytest.MonkeyPatch.context() as patch:
        noted = Reads(patch)
        for name in RUN:
            if name == "metrics@mini":  # of the other encoders too
                for table in (project / "figures/mini").glob("*-clip.csv"):
                    for other in MINI["encoders"].keys() - {"clip"}:
                        table.with_stem(table.stem.replace("clip", other)).write_text(
                            table.read_text().replace("clip", other)
                        )
            noted.names = set()
            for command in stages[name].cmd if isinstance(stages[name].cmd, list) else [stages[name].cmd]:
                with chdir(stages[name].wdir):
                    main(shlex.split(command)[1:])
            found.setdefault(kind(name), set()).update(map(general, noted.names))
    return found


@pytest.fixture(scope="module")
def stages() -> dict[str, PipelineStage]:
    return stages_of(PROJECT)


def listed(stage: PipelineStage) -> set[str]:
    file = PROJECT / "params.yaml"
    return {general(name) for param in stage.params if Path(param.fs_path) == file for name in param.params}


def is_stated(keys: list[str], held: Any) -> bool:
    """Whether a profile has a parameter of that general name."""
    if not keys or not isinstance(held, dict):
        return not keys
    inside = held.values() if keys[0] == "*" else [held[key] for key in held if key == keys[0]]
    return any(is_stated(keys[1:], value) for value in inside)


def covers(name: str, read: str) -> bool:
    """Whether a listed parameter is the one that is read, is around it, or is the part of a mapping that counts."""
    return f"{read}.".startswith(f"{name}.") or name == f"{read}.*"


def test_a_stage_lists_what_it_reads(stages: dict[str, PipelineStage], reads: dict[str, set[str]]) -> None:
    values = YAML(typ="safe").load(PROJECT / "params.yaml")
    lines = []
    for name, stage in stages.items():
        profile = values["paper" if "paper" in name or kind(name) in PAPER else "mini"]
        found = reads.get(SAME.get(kind(name), kind(name)), set())
        for read in sorted(found):
            own = f"featinv.{read}"  # in place of the profile's, where it is stated
            stated = is_stated(read.split("."), profile) and not (own in found and is_stated(own.split("."), profile))
            if (stated or read == "seed") and not any(covers(given, read) for given in listed(stage)):
                lines.append(f"{name} does not list {read}")
    assert not lines, "\n".join(lines)


def test_a_stage_reads_what_it_lists(stages: dict[str, PipelineStage], reads: dict[str, set[str]]) -> None:
    lines = []
    for name, stage in stages.items():
        if found := reads.get(SAME.get(kind(name), kind(name))):
            idle = [own for own in sorted(listed(stage)) if not any(covers(own, read) for read in found)]
            lines += [f"{name} does not read {own}" for own in idle]
    assert not lines, "\n".join(lines)


def test_every_kind_of_stage_is_known(stages: dict[str, PipelineStage]) -> None:
    known = {*map(kind, RUN), *SAME, *OTHERS}
    assert {kind(name) for name in stages} == known
