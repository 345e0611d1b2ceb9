"""Files that were cut short, emptied or altered: a line that names the file and says what to do, and nothing lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from featspace_training.checkpoint import State
from featspace_training.recipe import Recipe
from PIL import Image
from torch import nn

from featspace.cli import main
from featspace.stages.featinv import evaluate
from featspace.stages.featinv.decoder import FeatInv
from featspace.stages.featinv.training_state import TrainingState
from featspace.stages.traces import run_traces
from featspace.utils.errors import FeatspaceError
from featspace.utils.files import sha256
from featspace.utils.images import read_image

pytestmark = pytest.mark.usefixtures("offline")


def altered(content: bytes) -> bytes:
    """A bit of the last quarter, of a PNG in its pixels: Pillow shows others, as it leaves the sums unread."""
    at = len(content) * 3 // 4
    return content[:at] + bytes([content[at] ^ 8]) + content[at + 1 :]


DAMAGES = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "garbage": lambda content: bytes(reversed(content)),
    "altered": altered,
}


def failing(arguments: list[str], capsys) -> str:
    """The last line that a command prints, which fails with status 1."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    error = capsys.readouterr().err
    line = error.strip().splitlines()[-1]
    assert stop.value.code == 1 and line.startswith("featspace: error: ") and "Traceback" not in error, error
    return line


def inputs(command: list[str], folder: Path) -> list[str]:
    """The command on a copy of its targets and decoded layers, writing into `folder` / "new"."""
    command = [part.replace("OUT", str(folder / "new")) for part in command]
    for option in ("--targets", "--decoded"):
        if option in command:
            at = command.index(option) + 1
            command[at] = shutil.copytree(command[at], folder / option.strip("-"))
    return command


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("bench run", "targets/cup.png"),
        ("layers", "targets/cup.png"),
        ("layers", "decoded/pooled/cup-0.png"),
        ("featinv evaluate", "targets/cup.png"),
    ],
)
def test_a_damaged_photograph_or_decoded_image_is_named(name, file, damage, commands, tmp_path, capsys):
    command = commands[name] + (["--targets", commands["layers"][6]] if name == "featinv evaluate" else [])
    command = inputs(command, tmp_path)
    path = tmp_path / file
    content = DAMAGES[damage](path.read_bytes())
    path.write_bytes(content)
    line = failing(command, capsys)
    assert f"{path}: " in line and line.endswith("get it again"), line
    assert path.read_bytes() == content and not list(tmp_path.rglob("new/*"))


def test_no_single_bit_of_a_png_changes_its_pixels_unseen(tmp_path):
    y, x = np.mgrid[:32, :32]
    image = Image.fromarray(np.stack([8 * x, 8 * y, x + y], -1).astype(np.uint8))
    image.save(tmp_path / "whole.png")
    whole, refused = (tmp_path / "whole.png").read_bytes(), 0
    for bit in range(0, 8 * len(whole), 5):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        (tmp_path / "x.png").write_bytes(content)
        try:
            assert read_image(tmp_path / "x.png").tobytes() == image.tobytes()
        except FeatspaceError as error:
            assert str(tmp_path / "x.png") in str(error)
            refused += 1
    assert refused > len(whole)


@pytest.mark.parametrize("damage", ["cut", "empty"])
@pytest.mark.parametrize(
    ("name", "file", "remedy"),
    [
        ("layers", "decoded/pooled/decoded.csv", "run the stage that writes it again"),
        ("layers", "targets/targets.csv", "write it anew with `featspace targets`"),
        ("featinv evaluate", "data/models/featinv/maps/diffusion_pytorch_model.safetensors", "again"),
        ("featinv evaluate", "data/models/featinv/maps/pairing.json", ""),
        ("featinv evaluate", "data/models/featinv/maps/config.json", "again"),
        ("layers", "data/models/resnet/model.safetensors", ""),
    ],
)
def test_damaged_weights_features_and_tables_are_named(name, file, remedy, damage, commands, project, tmp_path, capsys):
    if (damage, file) == ("cut", "decoded/pooled/decoded.csv"):
        pytest.skip("half a table is one of fewer rows, and other targets")
    command = inputs(commands[name], tmp_path)
    path = project / file if file.startswith("data") else tmp_path / file
    whole = path.read_bytes()
    try:
        path.write_bytes(DAMAGES[damage](whole))
        line = failing(command, capsys)
    finally:
        path.write_bytes(whole)
    assert Path(file).name in line or Path(file).parent.name in line, line
    assert remedy in line and not list(tmp_path.rglob("new/*")), line


def cut_off(command: list[str], monkeypatch) -> None:
    """An evaluation, interrupted at its second part."""
    calls, decode = [], FeatInv.decode

    def interrupted(self, *given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return decode(self, *given)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(FeatInv, "decode", interrupted)
        main(command)


@pytest.mark.parametrize("damage", ["cut", "empty"])
@pytest.mark.parametrize("suffix", ["json", "parquet", "safetensors"])
def test_a_part_of_an_evaluation_with_a_damaged_record_is_decoded_again(
    suffix, damage, commands, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(evaluate, "PART", 2)
    whole, cut = ([part.replace("OUT", f"{tmp_path}/{n}") for part in commands["featinv evaluate"]] for n in "ab")
    main(whole)
    cut_off(cut, monkeypatch)
    record = tmp_path / "b" / "out.unfinished" / ".records" / f"part-0.{suffix}"
    record.write_bytes(DAMAGES[damage](record.read_bytes()))
    capsys.readouterr()
    main(cut)
    said = [line for line in capsys.readouterr().err.splitlines() if str(record) in line]
    assert len(said) == 1 and said[0].endswith("decoding its images again")
    files = [{path.name: sha256(path) for path in (tmp_path / n / "out").iterdir()} for n in "ab"]
    assert files[0] == files[1]


@pytest.mark.parametrize("damage", ["cut", "empty"])
def test_a_damaged_record_of_other_runs_is_named_and_stays(damage, commands, tmp_path, capsys):
    ablate, bench = ([part.replace("OUT", f"{tmp_path}") for part in commands[n]] for n in ("ablate", "bench run"))
    for command, file in ((ablate, "out.unfinished/.records/settings"), (bench, "out/images.csv")):
        path = tmp_path / file
        path.parent.mkdir(parents=True)
        path.write_bytes(DAMAGES[damage](b'{"seed": 0}' if command is ablate else b"encoder,method\nresnet,fast\n"))
        (path.parent / "mine.png").write_bytes(b"")
        line = failing(command, capsys)
        assert f"{path}: " in line and "; remove it, and" in line, line
        assert {each.name for each in path.parent.iterdir()} == {"mine.png", path.name}


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage"])
def test_a_damaged_checkpoint_is_named_and_stays(damage, tmp_path):
    model, recipe = nn.Linear(2, 2), Recipe(steps=3, batch=1, lr=1e-3)
    state = State.new(model, recipe, torch.device("cpu"))
    state.save(tmp_path / "model.pt", recipe)
    content = DAMAGES[damage]((tmp_path / "model.pt").read_bytes())
    (tmp_path / "model.pt").write_bytes(content)
    said = r"model\.pt: is damaged, or holds more than tensors and numbers, which could run code; remove it, and make"
    with pytest.raises(FeatspaceError, match=said):
        state.resume(tmp_path / "model.pt", recipe)
    other = TrainingState(model, state.optimizer, None, {})
    with pytest.raises(FeatspaceError, match=said):
        other.resume(tmp_path / "model.pt", torch.device("cpu"))
    assert (tmp_path / "model.pt").read_bytes() == content


def test_an_emptied_trace_is_named(tmp_path):
    (tmp_path / "trace.parquet").write_bytes(b"")
    table = tmp_path / "references.csv"
    table.write_text("encoder,id,reference,distance,cosine\nclip,cat,jpeg90,1,1\n")
    with pytest.raises(FeatspaceError, match=r"trace\.parquet: not a whole table .*; decode again"):
        run_traces([tmp_path], [table], tmp_path / "out.csv")
