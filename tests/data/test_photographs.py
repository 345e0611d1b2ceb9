"""Labelled photographs: what is wrong with them is named; crops and orders follow from a seed."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from featspace.cli import main
from featspace.data.photographs import Batches, open_photographs, random_crop, seeded
from featspace.utils.errors import FeatspaceError


def test_the_choice_of_photographs_is_deterministic(imagenet):
    photographs = open_photographs(imagenet, "val")
    chosen = photographs.choose(3)
    names = [photographs.names[i] for i in chosen]
    assert [photographs.labels[i] for i in chosen] == [0] * 3 + [1] * 3 and len(set(chosen)) == 6
    (imagenet / "val" / "n01440764" / "0.JPEG").rename(imagenet / "val" / "n01440764" / "new.JPEG")
    again = open_photographs(imagenet, "val")
    assert [again.names[i] for i in again.choose(3)][3:] == names[3:]  # another class' files change nothing
    assert photographs.choose(3, seed=1) != chosen
    with pytest.raises(FeatspaceError, match="class n01440764 has 6 photographs, not 7"):
        photographs.choose(7)


def test_a_folder_is_read_as_torchvision_reads_it(imagenet):
    """Classes and files in the order of their names, folders within a class too; what is no image is left out."""
    (imagenet / "val" / "n01440764" / "more").mkdir()
    (imagenet / "val" / "n01440764" / "0.JPEG").rename(imagenet / "val" / "n01440764" / "more" / "7.jpeg")
    (imagenet / "val" / "n01440764" / "notes.txt").write_text("none")
    photographs = open_photographs(imagenet, "val")
    assert photographs.classes == ["n01440764", "n01443537"] and photographs.labels == [0] * 6 + [1] * 6
    names = [f"val/n01440764/{i}.JPEG" for i in range(1, 6)] + ["val/n01440764/more/7.jpeg"]
    assert photographs.names[:6] == names and photographs[5].size == (90, 70)


def test_broken_photographs_are_counted_and_named(imagenet):
    open_photographs(imagenet, "train").check()
    folder = imagenet / "train" / "n01443537"
    whole = (folder / "1.JPEG").read_bytes()
    (folder / "1.JPEG").write_bytes(whole[: len(whole) // 2])
    (folder / "2.JPEG").write_bytes(b"")
    (folder / "4.JPEG").write_bytes(whole + b"a camera's own bytes")
    photographs = open_photographs(imagenet, "train")
    expected = "2 of 12 photographs are damaged: train/n01443537/1.JPEG, train/n01443537/2.JPEG; get them again"
    with pytest.raises(FeatspaceError, match=expected):
        photographs.check()
    with pytest.raises(FeatspaceError, match=r"2\.JPEG"):
        photographs[8]
    photographs.check([0, 1, 6])
    with pytest.raises(FeatspaceError, match="1 of 3 photographs are damaged: train/n01443537/1.JPEG;"):
        photographs.check([0, 1, 7])


def test_a_folder_of_photographs_that_is_missing_or_unsorted_is_named(imagenet, project, tmp_path, capsys):
    values = YAML(typ="safe").load((project / "params.yaml").read_text())

    def failing(command: list[str], photographs: Path | None) -> str:
        training = {"photographs": None if photographs is None else str(photographs), "precision": "float32"}
        controlnet = {"network": "data/models/resnet", "folder": "unused"}
        values["mini"]["featinv"] = {"controlnets": {"resnet": controlnet}, "training": training}
        file = project / "bad.yaml"
        YAML(typ="safe").dump(values, file)
        with pytest.raises(SystemExit) as stop:
            main([*command, "--controlnet", "resnet", "--params", str(file), "--out", str(tmp_path / "out")])
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert stop.value.code == 1 and line.startswith("featspace: error:") and not (tmp_path / "out").exists()
        return line

    training = ["featinv", "train"]
    assert "featinv.training.photographs is null" in failing(training, None)
    assert "nowhere/train: no such folder of photographs" in failing(training, tmp_path / "nowhere")
    (imagenet / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(b"")
    assert "val: 1 images lie outside of class folders, such as ILSVRC2012" in failing(training, imagenet)
    (imagenet / "val" / "ILSVRC2012_val_00000001.JPEG").unlink()
    (imagenet / "train" / "n01440764" / "3.JPEG").write_bytes(b"no image")
    assert "1 of 12 photographs are damaged: train/n01440764/3.JPEG" in failing(training, imagenet)
    (imagenet / "train" / "empty").mkdir()
    assert "train/empty: holds no images" in failing(["featinv", "means"], imagenet)
    (tmp_path / "hollow" / "train").mkdir(parents=True)
    assert "hollow/train: holds no class folders" in failing(["featinv", "means"], tmp_path / "hollow")


def test_a_damaged_table_of_photographs_is_named(toy_photographs, tmp_path):
    table = pd.read_parquet(toy_photographs / "train.parquet")
    (tmp_path / "classes.json").write_text((toy_photographs / "classes.json").read_text())
    cell = io.BytesIO()
    Image.new("RGB", (64, 64)).save(cell, "PNG")
    table.at[2, "image"] = {"bytes": b"none", "path": ""}
    table.at[5, "image"] = {"bytes": cell.getvalue(), "path": ""}
    table.to_parquet(tmp_path / "train.parquet")
    with pytest.raises(FeatspaceError, match=r"1 of 12 photographs are damaged: train.parquet\[2\];"):
        open_photographs(tmp_path, "train").check()
    (tmp_path / "val.parquet").write_bytes(b"PAR1")
    with pytest.raises(FeatspaceError, match="val.parquet: no table of images and labels"):
        open_photographs(tmp_path, "val")


def test_a_random_crop_is_a_part_of_the_photograph():
    gradient = torch.arange(100).repeat(80, 1).to(torch.uint8).numpy()
    image = Image.fromarray(gradient).convert("RGB")

    def draw(seed: int, source: Image.Image = image, size: int = 16, min_scale: float = 0.1) -> Image.Image:
        with seeded(seed):
            return random_crop(size, min_scale)(source)

    crops = [draw(i) for i in range(40)]
    assert draw(7).tobytes() == crops[7].tobytes()
    rows = torch.tensor([[crop.getpixel((x, 8))[0] for x in range(16)] for crop in crops]).float()
    assert rows.min() >= 0 and rows.max() <= 99
    rising = rows[:, -1] > rows[:, 0]
    assert 8 < rising.sum() < 32  # the others are mirrored
    widths = (rows[:, -1] - rows[:, 0]).abs()
    assert widths.min() < 45 < 70 < widths.max()
    whole = draw(0, image.crop((0, 0, 64, 64)), 64, 1.0)
    assert whole.size == (64, 64) and sorted({whole.getpixel((0, 0))[0], whole.getpixel((63, 0))[0]}) == [0, 63]


def test_what_is_drawn_from_a_seed_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with seeded(3):
        first = torch.rand(4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, torch.rand(4, generator=torch.Generator().manual_seed(3)))


def test_the_parts_of_several_processes_are_the_whole_step():
    def items(share: slice, parts: int, first: int = 0) -> list[list]:
        return list(Batches(first, 5, 8, 10, 3, share, parts))

    whole = items(slice(0, None, 1), 1)
    halves = [items(slice(rank, None, 2), 2) for rank in range(2)]
    for step, batch in enumerate(whole):
        found = [item for half in halves for part in half[2 * step : 2 * step + 2] for item in part]
        assert sorted(found) == sorted(batch)
    assert items(slice(0, None, 1), 1, first=3) == whole[3:] and len(Batches(3, 5, 8, 10, 3, slice(None), 1)) == 2
    order = [index for batch in whole for index, _ in batch]
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10)) and order[:10] != order[10:20]
    assert len({seed for batch in whole for _, seed in batch}) == 40


@pytest.mark.parametrize("seed", [18_400_000, 2**63 - 1])
def test_any_seed_that_the_parameters_allow_can_be_drawn_from(seed):
    draws = [item for batch in Batches(0, 3, 4, 6, seed, slice(None), 1) for item in batch]
    noises = [torch.randn(2, generator=torch.Generator().manual_seed(drawn)) for _, drawn in draws]
    assert len({tuple(noise.tolist()) for noise in noises}) == 12
    assert sorted(index for index, _ in draws[:6]) == list(range(6))
    loader = torch.utils.data.DataLoader(torch.arange(6), batch_sampler=[[0]], collate_fn=lambda _: draws)
    assert next(iter(loader)) == draws
