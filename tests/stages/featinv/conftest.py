"""A project with trained ControlNets: they took three steps, which is enough to listen to their conditioning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from featspace.cli import main
from featspace.config.params import Params
from featspace.stages.featinv.decoder import FeatInv

PROMPT = "a photo of a tabby"


@pytest.fixture(scope="module")
def params(project, toy_photographs) -> Path:
    """A parameter file of its own in the project, with a trained ControlNet for maps and one for pooled features."""
    values = YAML(typ="safe").load((project / "params.yaml").read_text())
    network, folder = "data/models/resnet", "data/models/featinv"
    values["mini"]["featinv"] = {
        "prompt": PROMPT,
        "steps": 3,
        "batch": 2,
        "controlnets": {
            "maps": {"network": network, "folder": f"{folder}/maps"},
            "pooled": {"network": network, "folder": f"{folder}/pooled", "layer": None},
        },
        "training": {
            "photographs": str(toy_photographs),
            "crop": 64,
            "epochs": 1.0,
            "batch": 4,
            "lr": 1.0e-2,
            "hint_width": 8,
            "precision": "float32",
            "workers": 0,
            "validations": 1,
        },
        "evaluation": {"per_class": 2, "shown": 2},
        "together": {"evaluations": 12, "targets": 1},
        "steer": {"strengths": [0.0, 1.0]},
    }
    path = project / "featinv.yaml"
    YAML(typ="safe").dump(values, path)
    for name in ("maps", "pooled"):
        main(["featinv", "train", "--controlnet", name, "--params", str(path)])
    return path


@pytest.fixture
def decoder(params, monkeypatch, project):
    monkeypatch.chdir(project)
    loaded = Params.load(params)
    return FeatInv(loaded, loaded.profile("mini"), "maps", torch.device("cpu"))
