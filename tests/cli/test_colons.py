"""Folders whose names have a colon in them, which are folders wherever a network is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from diffusers import AutoencoderTiny

from featspace.cli import main
from featspace.hub import resolve
from featspace.utils.errors import UsageError

pytestmark = pytest.mark.usefixtures("offline")


def test_a_folder_with_a_colon_in_its_name_is_a_folder(project: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """Encoder, prior, judge and tiny autoencoder, also where the name begins like a family's; of the parameters' folder
    or, on the command line, of the working directory."""
    for name in ("prior", "judge", "resnet", "clip"):
        shutil.copytree(f"data/models/{name}", tmp_path / f"timm:{name}")
    channels = {"encoder_block_out_channels": (2, 2, 2), "decoder_block_out_channels": (2, 2, 2)}
    blocks = {"num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)}
    AutoencoderTiny(**channels, **blocks).save_pretrained(tmp_path / "autoencoder:tiny")
    text = Path("params.yaml").read_text().replace("data/models/", "timm:")
    text = text.replace("preset: paper", "preset: fast, tiny_vae: 'autoencoder:tiny', evaluations: 2")
    (tmp_path / "params.yaml").write_text(text)
    (tmp_path / "here").mkdir()
    shutil.copytree("data/models/judge", tmp_path / "here/a:judge")
    photo = Path("photo.jpg").resolve()
    monkeypatch.chdir(tmp_path / "here")
    for encoder in ("resnet", "a:judge"):
        command = ["decode", str(photo), "--encoder", encoder, "--params", "../params.yaml", "--out", f"{encoder}.out"]
        main([*command, "--dry-run"])
        main([*command, "--samples", "1"])
        assert len(pd.read_csv(f"{encoder}.out/decoded.csv")) == 1
    main(["fetch", "a:judge", "--params", "../params.yaml", "--out", "one.json"])
    main(["fetch", "--params", "../params.yaml", "--out", "all.json"])
    found = json.loads(Path("all.json").read_text())
    folders = {Path(file["path"]).parts[0] for file in found["files"]}
    assert found["hub"] == [] and {"timm:prior", "timm:judge", "timm:resnet", "autoencoder:tiny"} <= folders
    with pytest.raises(UsageError, match="tim:resnet: no such kind of network; did you mean timm"):
        resolve("tim:resnet", tmp_path)
