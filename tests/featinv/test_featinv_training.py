"""A ControlNet's training: exact resume, whatever it is divided over; what it learns; photographs it cannot take."""

from __future__ import annotations

import io
import json
import random
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import load_file

from featspace.cli import main
from featspace.config.params import Params
from featspace.data.photographs import open_photographs, random_crop
from featspace.stages.featinv import train
from featspace.stages.featinv.train import Batches, noise_weight, run_train
from featspace.utils.errors import FeatspaceError

RECIPE = {
    "crop": 64,
    "epochs": 1.0,
    "batch": 4,
    "lr": 3.0e-3,
    "hint_width": 8,
    "precision": "float32",
    "workers": 0,
    "validations": 3,
    "checkpoint_seconds": -1.0,
}


@pytest.fixture
def fit(project, toy_photographs, tmp_path):
    """Trains with changes of the recipe, `own` of the ControlNet's, into a folder of tmp_path; weights and curve."""

    def run(name: str, own: dict | None = None, **changes) -> tuple[dict[str, torch.Tensor], pd.DataFrame]:
        values = YAML(typ="safe").load((project / "params.yaml").read_text())
        controlnet = {"network": "data/models/resnet", "folder": "unused", **(own or {})}
        recipe = {"photographs": str(toy_photographs), **RECIPE, **changes}
        steps = {"steps": 2, "controlnets": {"resnet": controlnet}, "training": recipe}
        values["mini"]["featinv"] = steps
        file = project / "training.yaml"
        YAML(typ="safe").dump(values, file)
        params = Params.load(file)
        out, work = tmp_path / name, tmp_path / f"{name}.work"
        run_train(params, params.profile("mini"), "resnet", out, work)
        return load_file(out / "diffusion_pytorch_model.safetensors"), pd.read_csv(work / "curve.csv")

    return run


def test_an_interrupted_training_takes_the_same_steps(fit, tmp_path, monkeypatch):
    whole, curve = fit("whole", validations=1)
    assert list(curve["step"]) == [3] and (tmp_path / "whole.work" / "validation-3.png").is_file()
    saved = train._save

    def stop_after_saving(*args):
        saved(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "_save", stop_after_saving)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fit("parts", validations=1)
    assert not (tmp_path / "parts").exists()
    monkeypatch.setattr(train, "_save", saved)
    parts, resumed = fit("parts", validations=1)
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
    assert resumed.equals(curve)
    with pytest.raises(FeatspaceError, match="parts: the folder is not empty"):
        fit("parts", validations=1)
    shutil.rmtree(tmp_path / "parts")
    with pytest.raises(FeatspaceError, match="checkpoint.pt: of a training with another recipe"):
        fit("parts", lr=1.0e-2)


def test_a_controlnet_can_have_epochs_of_its_own(fit):
    """12 photographs in batches of 4: three steps an epoch."""
    assert fit("more", own={"epochs": 2.0}, validations=1)[1]["step"].tolist() == [6]


def test_bfloat16_is_left_to_what_multiplies_in_it(fit, monkeypatch):
    """A CPU without such units trains in float32, to the same weights."""
    whole, _ = fit("whole", validations=1)
    monkeypatch.setattr(train, "multiplies_bfloat16", lambda device: False)
    again, _ = fit("again", validations=1, precision="bfloat16")
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())
    monkeypatch.setattr(train, "multiplies_bfloat16", lambda device: True)
    AcceleratorState._reset_state()  # which accelerate keeps for a process
    rounded, _ = fit("rounded", validations=1, precision="bfloat16")
    AcceleratorState._reset_state()
    assert any(not torch.equal(tensor, rounded[name]) for name, tensor in whole.items())


def test_gradient_accumulation_changes_nothing_but_memory(fit):
    whole, _ = fit("whole", validations=1)
    parts, _ = fit("parts", accumulate=2, validations=1)
    for name, tensor in whole.items():
        torch.testing.assert_close(tensor, parts[name], atol=2e-3, rtol=0)  # AdamW's steps are of the size of lr
    with pytest.raises(FeatspaceError, match="training.batch is 4: it must be a multiple of 1 processes times acc"):
        fit("odd", accumulate=3)


def test_only_the_controlnet_learns_and_the_hint_reaches_it(fit, project):
    before = load_file(project / "data/models/prior/unet/diffusion_pytorch_model.safetensors")
    weights, curve = fit("long", epochs=10.0, validations=1, schedule="cosine")
    assert weights["controlnet_cond_embedding.conv_out.weight"].any()
    assert weights["controlnet_mid_block.weight"].any()
    moved = [name for name, tensor in before.items() if name in weights and not torch.equal(tensor, weights[name])]
    assert moved  # the copy learns as well
    after = load_file(project / "data/models/prior/unet/diffusion_pytorch_model.safetensors")
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    first = fit("short", lr=1.0e-12, validations=1)[1]["held_out_error"].iloc[-1]
    assert curve["held_out_error"].iloc[-1] < first - 0.01


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


def test_errors_at_little_noise_can_count_less():
    alpha_bars = torch.tensor([0.999, 0.5, 0.01], dtype=torch.float64)
    snr = alpha_bars / (1 - alpha_bars)
    assert torch.equal(noise_weight(alpha_bars, None, False), torch.ones(3))
    torch.testing.assert_close(noise_weight(alpha_bars, 0.1, False) * snr, torch.minimum(snr, torch.tensor(0.1)))
    # The same loss in v: an error of v is one of the noise times ᾱ, as v = (ε − √(1 − ᾱ) z)/√ᾱ.
    of_noise, of_v = (noise_weight(alpha_bars, 0.1, each) for each in (False, True))
    torch.testing.assert_close(of_v, of_noise * alpha_bars)


def test_a_random_crop_is_a_part_of_the_photograph():
    gradient = torch.arange(100).repeat(80, 1).to(torch.uint8).numpy()
    image = Image.fromarray(gradient).convert("RGB")
    crops = [random_crop(image, 16, 0.1, random.Random(i)) for i in range(40)]
    assert random_crop(image, 16, 0.1, random.Random(7)).tobytes() == crops[7].tobytes()
    rows = torch.tensor([[crop.getpixel((x, 8))[0] for x in range(16)] for crop in crops]).float()
    assert rows.min() >= 0 and rows.max() <= 99
    rising = rows[:, -1] > rows[:, 0]
    assert 8 < rising.sum() < 32  # the others are mirrored
    widths = (rows[:, -1] - rows[:, 0]).abs()
    assert widths.min() < 45 < 70 < widths.max()
    whole = random_crop(image.crop((0, 0, 64, 64)), 64, 1.0, random.Random(0))
    assert whole.size == (64, 64) and sorted({whole.getpixel((0, 0))[0], whole.getpixel((63, 0))[0]}) == [0, 63]


@pytest.fixture
def imagenet(tmp_path) -> Path:
    """A folder in ImageNet's layout: two classes of six JPEG files in each split."""
    folder = tmp_path / "imagenet"
    for split in ("train", "val"):
        for label, name in enumerate(("n01440764", "n01443537")):
            (folder / split / name).mkdir(parents=True)
            for i in range(6):
                pixels = torch.randint(256, (3, 70, 90), generator=torch.Generator().manual_seed(100 * label + i))
                image = Image.fromarray(pixels.permute(1, 2, 0).to(torch.uint8).numpy())
                image.save(folder / split / name / f"{i}.JPEG")
    return folder


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


def test_the_published_settings_train_on_imagenets_folders(imagenet, project, tmp_path):
    """The recipe of the paper profile as it is, but for the photographs and a few steps of tiny networks."""
    published = Params.load(Path(__file__).parents[2] / "params.yaml").profile("paper").featinv
    recipe, pooled = published.training, [own.layer for own in published.controlnets.values()].count(None)
    assert (recipe.crop, recipe.lr, recipe.batch, recipe.epochs, recipe.drop) == (288, 1e-5, 8, 3, 0.15)
    assert (published.guidance_scale, published.steps, recipe.hint_width, pooled) == (1.75, 50, 512, 3)
    here = {"photographs": str(imagenet), "precision": "float32", "epochs": 1.4, "workers": 1, "hint_width": 8}
    own = published.controlnets["convnext"].model_copy(update={"network": "data/models/resnet"})
    changes = {
        "prior": None,
        "resolution": None,
        "steps": 2,
        "training": recipe.model_copy(update=here),
        "controlnets": {"convnext": own},
    }
    params = Params.load(project / "params.yaml")
    profile = params.profile("mini").model_copy(update={"featinv": published.model_copy(update=changes)})
    run_train(params, profile, "convnext", tmp_path / "out", tmp_path / "work")
    pairing = json.loads((tmp_path / "out" / "pairing.json").read_text())
    assert pairing["input_size"] == [288, 288] and pairing["hint"][1:] == [9, 9]
    curve = pd.read_csv(tmp_path / "work" / "curve.csv")
    assert list(curve["step"]) == [1, 2] and curve.notna().all(axis=None)


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
