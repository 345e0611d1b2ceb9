"""Every stage lists the parameters that its command reads.

The commands of dvc.yaml and training/dvc.yaml run on tiny models while each read of a parameter is noted. A parameter that
params.yaml leaves at its default cannot be listed, as DVC wants each to be there; it counts where the other profile has it.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterable
from contextlib import chdir
from functools import reduce
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
    "similarity": {"bootstrap": 5},
    "layers": {"efficientnet": {"layer1": 2}},
    "featinv": FEATINV,
}
RUN = [  # in this order, of both files
    "training/featinv@efficientnet",
    "training/featinv@vit",
    "training/featinv_means",
    "training/featinv_evaluation@efficientnet",
    "fetch@mini",
    "targets@mini",
    *(f"{stage}@mini-{name}" for name in MINI["encoders"] for stage in ("features", "decode", "references", "similarity")),
    "metrics@mini",
    "layer-mini-efficientnet@layer1",
    "layers@mini-efficientnet",
    "featinv@mini-efficientnet",
    "featinv_together@mini",
    "steer@mini",
]
SAME = {"featinv_train": "training/featinv", "featinv_means": "training/featinv_means"}
"""Stages that run what another one does."""
NO_PARAMETERS = {"figure", "overview", "layers_figures", "featinv_figures", "featinv_fetch", "mini", "paper"}
NO_PARAMETERS |= {f"training/{name}" for name in ("featinv_summary", "samples", "checksums")}
OTHER_CODE = {f"training/{name}" for name in ("vae", "prior", "clip", "vit", "references", "card")}
"""Do not read them through the command line."""


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
            self.note(section, set(given.get("include") or type(section).model_fields) - set(given.get("exclude") or ()))
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
    return re.sub(r"\b(encoders|controlnets|layers)\.[^.]+", r"\1.*", re.sub("^(mini|paper)[.]", "", name))


@pytest.fixture(scope="module")
def reads(project: Path, toy_photographs: Path) -> dict[str, set[str]]:
    """What the commands of each kind of stage read."""
    values = YAML(typ="safe").load(PROJECT / "params.yaml")
    YAML(typ="safe").dump({**values, "mini": MINI}, project / "params.yaml")
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
            noted.names = set()
            commands = stages[name].cmd if isinstance(stages[name].cmd, list) else [stages[name].cmd]
            for command in commands:
                with chdir(stages[name].wdir):
                    main(shlex.split(command)[1:])
            found.setdefault(kind(name), set()).update(map(general, noted.names))
    return found


@pytest.fixture(scope="module")
def stages() -> dict[str, PipelineStage]:
    return stages_of(PROJECT)


def listed(stage: PipelineStage) -> set[str]:
    file = PROJECT / "params.yaml"
    return {name for param in stage.params if Path(param.fs_path) == file for name in param.params}


def stated(name: str, profile: dict[str, Any]) -> bool:
    """Whether a profile of params.yaml has a parameter of that general name, of the first network or of all."""

    def step(held: Any, key: str) -> Any:
        if not isinstance(held, dict):
            return None
        return next(iter(held.values()), None) if key == "*" else held.get(key, ...)
    raise NotImplementedError


def test_reads(reads):
    for k, v in reads.items():
        print(k, sorted(v))
