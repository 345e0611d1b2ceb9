"""Every stage lists the parameters that its command reads.

The commands of dvc.yaml and training/dvc.yaml run on tiny models, while each read of a parameter is noted. One that
params.yaml leaves at its default cannot be listed, as DVC wants it there; it counts for the profile that has it.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from contextlib import chdir
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from dvc.repo import Repo
from dvc.stage import PipelineStage
from parameter_reads import Reads
from ruamel.yaml import YAML
from safetensors.torch import save_file

from featspace.cli import main
from featspace.encoders.encoder import load_encoder

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
    "captions": {"tabby": "a photo of a tabby"},
    "similarity": {"photographs": "data/models/references", "bootstrap": 5},
    "layers": {"efficientnet": {"layer1": 2}},
    "mixtures": {
        "clip": {"between": [["tabby", "cat"]], "at": [0.5]},
        "efficientnet": {"between": [["cat", "cup"]], "at": [0.5], "classes": {"tabby": 0}},
        "vit": {"between": [["cat", "cup"]], "at": [0.5]},
    },
    "spread": {"encoder": "efficientnet", "target": "cat", "samples": 2},
    "ablation": {
        "encoder": "efficientnet",
        "targets": ["cat"],
        "base": {"preset": "paper", "steps": 2, "emphasis_steps": 0, "recurrences": 2},
        "settings": {"no_emphasis": {"recurrences": 1}, "weight_1": {"guidance_weight": 1.0}},
    },
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
    "features@mini-efficientnet",
    "decode@mini-efficientnet",
    "features@mini-vit",
    "decode@mini-vit",
    "mixed@mini-clip",
    "mixed@mini-efficientnet",
    "mixed@mini-vit",
    "mixtures@mini-clip",
    "mixtures@mini-efficientnet",
    "mixtures@mini-vit",
    "spread@mini",
    "spread_table@mini",
    "ablate@mini",
    "ablation@mini",
    "agreement@mini",
    "neighbors@mini",
    "traces@mini",
    "claims@mini",
    "layer-mini-efficientnet@layer1",
    "layers@mini-efficientnet",
    "featinv_together@mini",
    "steer@mini",
    "figures-mini",
]
SAME = {
    "featinv": "training/featinv_evaluation",
    "featinv_train": "training/featinv",
    "featinv_means": "training/featinv_means",
}
"""Stages that run what another does."""
PAPER = {"featinv_train", "featinv_means"}
"""Stages of that profile alone."""
OTHERS = {"featinv_figures", "featinv_fetch", "mini", "paper"}
OTHERS |= {f"training/{name}" for name in ("featinv_summary", "samples", "checksums")}
"""Stages whose commands open no parameter file, or nothing of it but what is in the command itself."""
OTHERS |= {f"training/{name}" for name in ("vae", "prior", "clip", "vit", "references", "card")}
"""Those that train need photographs; they read their own recipe and nothing else."""


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
    return re.sub(r"\b(encoders|controlnets|layers|mixtures)\.[^.]+", r"\1.*", name)


@pytest.fixture(scope="module")
def reads(project: Path, toy_photographs: Path) -> dict[str, set[str]]:
    """What the commands of each kind of stage read."""
    values = YAML(typ="safe").load(PROJECT / "params.yaml")
    YAML(typ="safe").dump({**values, "mini": MINI}, project / "params.yaml")
    (project / "data/models/SHA256SUMS").unlink()  # what the first stages write is not in it
    for name in ("efficientnet", "vit"):
        features = torch.rand(8, load_encoder(NETWORK["network"], project).dim)
        save_file({"features": features}, project / f"data/models/references/{name}.safetensors")
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
