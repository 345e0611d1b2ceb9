"""Names that files of others bring: none leads out of a folder, and each that could is refused in one line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from malicious import NAMES
from ruamel.yaml import YAML
from safetensors.torch import save_file

from featspace.config.params import Params
from featspace.data.features import read_features
from featspace.data.targets import read_targets
from featspace.figures.source import Source
from featspace.hub.lock import read_lock
from featspace.hub.manifest import check_folder
from featspace.utils.errors import FeatspaceError
from featspace.utils.names import check_name
from featspace.utils.tables import ABLATION, BENCH, DECODED, LAYERS, MIXTURES, STEERED, read_table

PROFILE = {
    "prior": "p",
    "resolution": 64,
    "judge": "j",
    "encoders": {"net": {"network": "n"}},
    "captions": {"pizza": "a pizza"},
}


def write_csv(name: str, columns: dict[str, type], own: dict[str, str]) -> None:
    with open(name, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([columns, [own.get(column, "1") for column in columns]])


def a_table(columns: dict[str, type], column: str) -> Callable[[str], Any]:
    def read(name: str) -> Any:
        write_csv("table.csv", columns, {column: name})
        return read_table(Path("table.csv"), columns)

    return read


def a_feature(name: str) -> Any:
    save_file({name: torch.ones(3)}, "x.safetensors")
    return read_features(Path("x.safetensors"))


def a_target(name: str) -> Any:
    columns = {"id": str, "kind": str, "text": str, "source": str}
    write_csv("targets.csv", columns, {"id": name, "kind": "photo"})
    Path("net.png").touch()
    return read_targets(Path())


def a_key(section: str, value: Any, outer: str = "") -> Callable[[str], Any]:
    def read(name: str) -> Any:
        inner = {outer: {name: value}} if outer else {name: value}
        YAML(typ="safe", pure=True).dump({"seed": 0, "mini": PROFILE | {section: inner}}, Path("params.yaml"))
        return Params.load(Path("params.yaml"))

    return read


def a_profile(name: str) -> Any:
    YAML(typ="safe", pure=True).dump({"seed": 0, name: PROFILE}, Path("params.yaml"))
    return Params.load(Path("params.yaml"))


def pinned(file: str = "w.safetensors", revision: str = "1") -> Any:
    files = {file: {"bytes": 1, "sha256": ""}}
    Path("data").mkdir(exist_ok=True)
    entry = {"repository": "o/r", "revision": revision, "license": "", "files": files}
    Path("data/weights.lock").write_text(json.dumps({"transformers:o/r": entry}))
    return read_lock(Path())


def a_part(name: str) -> Any:
    Path("net").mkdir(exist_ok=True)
    Path("net/model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    return check_folder(Path("net"))


def a_neighbor(name: str) -> Any:
    return Source(Path("data"), Path("tables"), ["net"]).photo(name)


PLACES: dict[str, Callable[[str], Any]] = {
    "a feature's key": a_feature,
    "a target's id": a_target,
    "an id in decoded.csv": a_table(DECODED, "id"),
    "a file in steer.csv": a_table(STEERED, "file"),
    "a method in images.csv": a_table(BENCH, "method"),
    "a setting in ablation.csv": a_table(ABLATION, "setting"),
    "a layer in layers.csv": a_table(LAYERS, "layer"),
    "an end in mixtures.csv": a_table(MIXTURES, "second"),
    "a target in neighbors.csv": a_neighbor,
    "an encoder in params.yaml": a_key("encoders", {"network": "n"}),
    "a photo in params.yaml": a_key("photos", {"image": "x.png"}),
    "a caption in params.yaml": a_key("captions", "x"),
    "a layer in params.yaml": a_key("layers", 4, "net"),
    "a profile in params.yaml": a_profile,
    "a file in weights.lock": lambda name: pinned(file=name),
    "a revision in weights.lock": lambda name: pinned(revision=name),
    "a part in model.safetensors.index.json": a_part,
}


@pytest.mark.parametrize("place", PLACES)
def test_a_name_that_no_file_can_have(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here/net").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    for file in (tmp_path / "x", tmp_path / "x.png", tmp_path / "here/net/x.safetensors"):
        file.touch()  # it is not for want of a file that it is refused
    PLACES[place]("net")
    for name in NAMES:
        with pytest.raises(FeatspaceError) as caught:
            PLACES[place](name)
        line = str(caught.value)
        assert line.isprintable() and "Traceback" not in line, (name, line)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "x", "x.png"]


@pytest.mark.parametrize("name", ["cat", "写真", "layer1.0", "blocks.4", "a photo", "e\u0301t\u00e9", "x" * 200])
def test_a_name_that_files_have_is_itself(name: str) -> None:
    assert check_name(name) == name
