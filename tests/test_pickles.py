"""Nothing that the product reads is unpickled, whatever it is called: each is one line, and its code never runs."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from featspace_training.checkpoint import steps_taken
from malicious import MARKER, PICKLES, refused

from featspace.config.params import Params
from featspace.data.features import read_features
from featspace.data.photographs import open_photographs
from featspace.data.references import read_references
from featspace.data.targets import read_targets
from featspace.hub.lock import read_lock
from featspace.hub.manifest import PICKLES as SUFFIXES
from featspace.hub.manifest import check_folder
from featspace.report.provenance import read_weights
from featspace.report.tables import read_tables
from featspace.stages.featinv.steer import read_direction
from featspace.stages.featinv.training_state import TrainingState
from featspace.stages.traces import run_traces
from featspace.utils.images import read_image
from featspace.utils.tables import BENCH, DECODED, REFERENCES, read_table


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_files_are_dangerous() -> None:
    for name in ("pickle", "text pickle"):
        pickle.loads(PICKLES[name])
        Path(MARKER).unlink()  # raises where it is not there


def traces(path: Path) -> None:
    row = {"encoder": "clip", "id": "a", "reference": "nearest_photo", "distance": 1.0, "cosine": 0.5}
    pd.DataFrame([row])[list(REFERENCES)].to_csv("references.csv", index=False)
    run_traces([path.parent], [Path("references.csv")], Path("traces.csv"))


def resumed(path: Path) -> None:
    TrainingState(torch.nn.Linear(1, 1), None, None, {}).resume(path, torch.device("cpu"))


FILES: dict[str, Callable[[Path], Any]] = {
    "features.safetensors": read_features,
    "references.safetensors": lambda path: read_references(path, 3),
    "direction.safetensors": lambda path: read_direction(path, SimpleNamespace(network="x")),
    "targets.csv": lambda path: read_targets(path.parent),
    "decoded.csv": lambda path: read_table(path, DECODED),
    "images.csv": lambda path: read_table(path, BENCH),
    "trace.parquet": traces,
    "val.parquet": lambda path: open_photographs(path.parent, "val"),
    "metrics.json": lambda path: read_tables(path.parent),
    "weights.json": read_weights,
    "data/weights.lock": lambda path: read_lock(Path()),
    "params.yaml": Params.load,
    "photo.png": read_image,
    "checkpoint.pt": resumed,
    "clip.ckpt": lambda path: steps_taken(path, SimpleNamespace(identity={}, steps=1, stable=1)),
}


@pytest.mark.parametrize("content", PICKLES.values(), ids=PICKLES)
@pytest.mark.parametrize("name", FILES)
def test_a_pickle_in_place_of_a_file(name: str, content: bytes) -> None:
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    refused(lambda: FILES[name](path), path)


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_a_pickle_beside_weights(suffix: str) -> None:
    Path("net").mkdir()
    Path(f"net/pytorch_model{suffix.upper()}").write_bytes(PICKLES["pickle"])
    refused(lambda: check_folder(Path("net")), Path(f"net/pytorch_model{suffix.upper()}"))
