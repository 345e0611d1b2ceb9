"""Features are of one network and its weights, and a file of them says of which."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from featspace.cli import main
from featspace.data.features import read_features, write_features
from featspace.encoders.encoder import load_encoder

pytestmark = pytest.mark.usefixtures("offline")


def test_features_of_a_network_with_other_weights_are_refused(project: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree("data/models/resnet", tmp_path / "resnet")
    weights = tmp_path / "resnet/model.safetensors"
    features = str(tmp_path / "features.safetensors")
    main(["targets", "--out", str(tmp_path / "targets")])
    main(["features", "--encoder", "resnet", "--targets", str(tmp_path / "targets"), "--out", features])
    decode = ["decode", features, "--encoder", str(tmp_path / "resnet"), "--samples", "1", "--out"]
    main([*decode, str(tmp_path / "moved")])  # the same weights, in another folder

    tensors = load_file(weights)
    tensors["conv1.0.weight"] = tensors["conv1.0.weight"] + 0.01
    save_file(tensors, weights, metadata={"format": "pt"})
    main([*decode, str(tmp_path / "out"), "--dry-run"])  # loads no weights
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*decode, str(tmp_path / "out")])
    line = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 1 and not (tmp_path / "out").exists()
    assert re.search(
        r"features\.safetensors: features of .*/resnet with other weights than those of .*/resnet now", line
    )
    assert line.endswith("; write them anew with `featspace features`")


def test_a_file_says_whose_features_it_holds_and_has_the_same_bytes_each_time(project: Path, tmp_path: Path) -> None:
    encoder, features = load_encoder("data/models/resnet"), {"写真": torch.arange(96.0), "b": torch.ones(96)}
    for attempt in range(4):
        write_features(features, encoder, tmp_path / f"{attempt}")
    assert len({(tmp_path / f"{attempt}").read_bytes() for attempt in range(4)}) == 1
    found, metadata = read_features(tmp_path / "0")
    assert metadata == {"encoder": "data/models/resnet", "weights": encoder.weights}
    assert found.keys() == features.keys() and all(torch.equal(found[name], features[name]) for name in features)
    assert encoder.weights == load_encoder("data/models/resnet", layer="unpooled").weights
    assert encoder.weights != load_encoder("data/models/judge").weights
