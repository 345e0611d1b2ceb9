"""A ControlNet's training: exact resume, whatever it is divided over; what it learns; photographs it cannot take."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import DDPMScheduler
from ruamel.yaml import YAML
from safetensors.torch import load_file

from featspace.config.params import Params
from featspace.stages.featinv import train
from featspace.stages.featinv.objective import noise_weight, prediction_error
from featspace.stages.featinv.train import run_train
from featspace.stages.featinv.training_state import TrainingState
from featspace.stages.featinv.validate import tile
from featspace.utils.errors import FeatspaceError, UsageError
from featspace.utils.locks import alone

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
    short = {"validations": 1, "schedule": "cosine"}
    whole, curve = fit("whole", **short)
    assert list(curve["step"]) == [3] and (tmp_path / "whole.work" / "validation-3.png").is_file()
    saved = TrainingState.save

    def stop_after_saving(*args):
        saved(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingState, "save", stop_after_saving)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fit("parts", **short)
    assert not (tmp_path / "parts").exists()
    monkeypatch.setattr(TrainingState, "save", saved)
    parts, resumed = fit("parts", **short)
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
    assert resumed.equals(curve)
    with pytest.raises(FeatspaceError, match="parts: the folder is not empty"):
        fit("parts", **short)
    shutil.rmtree(tmp_path / "parts")
    with pytest.raises(FeatspaceError, match="checkpoint.pt: of a training with another recipe"):
        fit("parts", lr=1.0e-2)


def test_a_folder_is_trained_in_by_one_run_at_a_time(fit, tmp_path):
    with alone(tmp_path / "second.work"), pytest.raises(UsageError) as refused:
        fit("second", validations=1)
    work = tmp_path / "second.work"
    assert str(refused.value) == f"{work}: another run is making it; wait for it to end, or name another path"
    assert not work.exists() and not (tmp_path / "second").exists()
    fit("second", validations=1)
    assert (tmp_path / "second").is_dir() and not list(tmp_path.glob(".*.lock"))


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


def test_only_the_controlnet_learns_and_the_conditioning_reaches_it(fit, project):
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


def test_errors_at_little_noise_can_count_less():
    alphas_cumprod = torch.tensor([0.999, 0.5, 0.01], dtype=torch.float64)
    snr = alphas_cumprod / (1 - alphas_cumprod)
    assert torch.equal(noise_weight(snr, None, "epsilon"), torch.ones(3))
    torch.testing.assert_close(noise_weight(snr, 0.1, "epsilon") * snr, torch.minimum(snr, torch.tensor(0.1)))
    # The same loss in v: an error of v is one of the noise times ᾱ, as v = (ε − √(1 − ᾱ) z)/√ᾱ.
    of_noise, of_v = (noise_weight(snr, 0.1, each) for each in ("epsilon", "v_prediction"))
    torch.testing.assert_close(of_v, of_noise * alphas_cumprod)


def test_the_error_is_that_of_what_the_prior_predicts():
    clean, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([3, 400, 900])
    schedulers = {kind: DDPMScheduler(prediction_type=kind) for kind in ("epsilon", "v_prediction")}
    keep = schedulers["epsilon"].alphas_cumprod[t].view(-1, 1, 1, 1)

    def right(z):
        torch.testing.assert_close(z, keep.sqrt() * clean + (1 - keep).sqrt() * noise)
        return noise

    def right_velocity(z):
        return (noise - (1 - keep).sqrt() * z) / keep.sqrt()

    assert prediction_error(right, schedulers["epsilon"], clean, noise, t).max() == 0
    assert prediction_error(right_velocity, schedulers["v_prediction"], clean, noise, t).max() < 1e-6
    off = prediction_error(lambda z: right_velocity(z) + 1, schedulers["v_prediction"], clean, noise, t)
    torch.testing.assert_close(off, torch.ones(3), atol=1e-3, rtol=0)


def test_reconstructions_stand_below_their_originals():
    images = torch.rand(5, 3, 4, 4)
    sheet = tile(images, 1 - images, across=3)
    assert sheet.shape == (3, 16, 12)
    for i, (y, x) in enumerate([(0, 0), (0, 1), (0, 2), (2, 0), (2, 1)]):
        tiles = [sheet[:, 4 * row : 4 * row + 4, 4 * x : 4 * x + 4] for row in (y, y + 1)]
        assert torch.equal(tiles[0], images[i]) and torch.equal(tiles[1], 1 - images[i])
    assert (sheet[:, 8:, 8:] == 1).all()


def test_the_published_settings_train_on_imagenets_folders(imagenet, project, tmp_path):
    """The recipe of the paper profile as it is, but for the photographs and a few steps of tiny networks."""
    published = Params.load(Path(__file__).parents[3] / "params.yaml").profile("paper").featinv
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
