"""A project with trained ControlNets: they took three steps, which is enough to listen to their conditioning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy_featinv import write_params

from featspace.cli import main
from featspace.config.params import Params
from featspace.stages.featinv.decoder import FeatInv


@pytest.fixture(scope="module")
def params(project, toy_photographs) -> Path:
    """A parameter file of its own in the project, with a trained ControlNet for maps and one for pooled features."""
    path = write_params(project, toy_photographs, "featinv.yaml")
    for name in ("maps", "pooled"):
        main(["featinv", "train", "--controlnet", name, "--params", str(path)])
    return path


@pytest.fixture
def decoder(params, monkeypatch, project):
    monkeypatch.chdir(project)
    loaded = Params.load(params)
    return FeatInv(loaded, loaded.profile("mini"), "maps", torch.device("cpu"))
