"""The tiny second decoder: its part of a parameter file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML


def write_params(project: Path, photographs: Path, name: str, **changes: Any) -> Path:
    """A parameter file `name` in the project, with a ControlNet for maps and one for pooled features.

    `changes` are the training's.
    """
    values = YAML(typ="safe").load((project / "params.yaml").read_text())
    network, folder = "data/models/resnet", "data/models/featinv"
    values["mini"]["featinv"] = {
        "prompt": "a photo of a tabby",
        "steps": 3,
        "batch": 2,
        "controlnets": {
            "maps": {"network": network, "folder": f"{folder}/maps"},
            "pooled": {"network": network, "folder": f"{folder}/pooled", "layer": None},
        },
        "training": {
            "photographs": str(photographs),
            "crop": 64,
            "epochs": 1.0,
            "batch": 4,
            "lr": 1.0e-2,
            "hint_width": 8,
            "precision": "float32",
            "workers": 0,
            "validations": 1,
            **changes,
        },
        "evaluation": {"per_class": 2, "shown": 2},
        "together": {"evaluations": 12, "targets": 1},
        "steer": {"strengths": [0.0, 1.0]},
    }
    path = project / name
    YAML(typ="safe").dump(values, path)
    return path
