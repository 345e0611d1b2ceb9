"""Memory that is short on the CPU, where PyTorch has no error of its own: fewer images at once, or one line."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from diffusers import UNet2DConditionModel

from featspace.cli import main
from featspace.encoders.encoder import Encoder
from featspace.utils.errors import FeatspaceError, explained

pytestmark = pytest.mark.usefixtures("offline")
TOO_MUCH = 10**13
"""Numbers that no machine has room for."""


def short(monkeypatch, network: type, most: int) -> list[int]:
    """Has a network allocate TOO_MUCH for more than `most` images; returns the sizes of the batches that it gets."""
    forward, sizes = network.forward, []

    def allocating(self, images, *given, **options):
        if images.is_meta:  # for a plan, which takes no memory
            return forward(self, images, *given, **options)
        sizes.append(len(images))
        if len(images) > most:
            torch.empty(TOO_MUCH)
        return forward(self, images, *given, **options)

    monkeypatch.setattr(network, "forward", allocating)
    return sizes


def failing(command: list[str], capsys) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(command)
    error = capsys.readouterr().err
    assert stop.value.code == 1 and "Traceback" not in error, error
    return error.strip().splitlines()[-1]


def test_fewer_images_at_once_are_decoded_where_memory_is_short(commands, tmp_path, capsys, monkeypatch):
    sizes = short(monkeypatch, UNet2DConditionModel, 1)
    main([part.replace("OUT", str(tmp_path)) for part in commands["decode"]])
    assert "with 2 images at once: going on with 1" in capsys.readouterr().err
    assert sizes[0] == 2 and set(sizes[1:]) == {1}  # after one that was too many
    assert len(pd.read_csv(tmp_path / "out" / "decoded.csv")) == 4


ONE = "even with one image at once, recomputing activations (…); its images have 64x64 pixels: take a prior of"
LINES = {
    "decode": f"on cpu {ONE}",
    "ablate": f"on cpu {ONE}",
    "featinv evaluate": "on cpu with 2 images at once, of 64x64 pixels (…); lower featinv.batch, which is 2",
    "featinv train": "with 4 images at once, of 64x64 pixels (…); raise featinv.training.accumulate, which",
    "bench run": "on cpu with 2 images of 64x64 pixels at once (…); lower `batch`",
    "layers": "(…): free some, or lower `batch`",
    "features": "on cpu with one image of 64x64 pixels (…); free some, or take a smaller network",
}


@pytest.mark.parametrize("name", LINES)
def test_a_command_that_memory_does_not_suffice_for_says_so_in_a_line(name, commands, tmp_path, capsys, monkeypatch):
    given = commands["layers"]
    features = ["features", *given[1:7], "--out", "OUT/out"]
    command = [part.replace("OUT", str(tmp_path)) for part in commands.get(name, features)]
    network = Encoder if name in ("layers", "features") else UNet2DConditionModel
    short(monkeypatch, network, 1 if name == "bench run" else 0)  # which measures one image at a time
    line = failing(command, capsys)
    before, after = LINES[name].split("…")
    assert line.startswith(f"featspace: error: out of memory {before}") and after in line, line
    assert re.search(r"DefaultCPUAllocator: can't allocate memory: you tried to allocate \d+ bytes", line)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and name != "bench run"]
    assert not left


def test_weights_that_memory_does_not_suffice_for_are_not_called_damaged():
    with pytest.raises(MemoryError, match="DefaultCPUAllocator"), explained(Path("network")):
        torch.empty(TOO_MUCH)
    with pytest.raises(FeatspaceError, match="damaged"), explained(Path("network")):
        raise RuntimeError("size mismatch")
