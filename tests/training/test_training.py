"""The trainers on toy photographs: exact resume, loadable folders, the tokenizer, the prior's layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from featspace_training import classifier, clip, data, photographs, prior, vae
from featspace_training.__main__ import MODELS, read_recipe, train
from PIL import Image
from tiny_models import TEXT, UNET, VAE

from featspace.encoders.encoder import load_encoder
from featspace.utils.errors import FeatspaceError
from featspace.utils.locks import alone

RECIPES = Path(__file__).parents[2] / "training" / "params.yaml"
SPEED = {"batch": 4, "lr": 1e-3}


def drawn(images: torch.Tensor, **options) -> data.Augmented:
    return data.Augmented(images, torch.arange(len(images)), data.augmentation(32, **options))


def test_augmentation_follows_from_the_seed_alone():
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    samples = drawn(images, min_scale=0.35)
    first = torch.stack([samples[0, seed][0] for seed in range(20)])
    before = torch.get_rng_state()
    torch.rand(7)
    assert torch.equal(first, torch.stack([samples[0, seed][0] for seed in range(20)]))
    torch.set_rng_state(before)
    assert samples[0, 0] and torch.equal(torch.get_rng_state(), before)  # nothing is drawn from the training's own
    assert first.shape == (20, 3, 32, 32) and first.dtype == torch.uint8 and len(first.flatten(1).unique(dim=0)) == 20
    assert samples[1, 3][1] == 1


def test_augmentation_without_crop_or_jitter_is_the_image_or_its_mirror():
    image = torch.randint(256, (3, 32, 32), dtype=torch.uint8)
    samples = drawn(image[None], min_scale=1.0, jitter=0.0)
    found = [samples[0, seed][0] for seed in range(40)]
    kept, mirrored = (sum(torch.equal(each, wanted) for each in found) for wanted in (image, image.flip(-1)))
    assert kept + mirrored == 40 and 8 < kept < 32


def test_jitter_changes_colors_by_so_much():
    gray = torch.full((1, 3, 32, 32), 100, dtype=torch.uint8)
    levels = torch.stack([drawn(gray, min_scale=1.0)[0, seed][0].unique().float().mean() for seed in range(60)])
    assert 69 <= levels.min() < 80 and 120 < levels.max() <= 131


def test_tokenizer_agrees_with_open_clips():
    texts = [
        "",
        "a photo of a tabby",
        "A black motorbike parked on the dry ground!",
        "naïve café 42",
        "<x> & y's",
    ]
    ours = prior.clip_tokenizer(77)(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    theirs = open_clip.SimpleTokenizer(context_length=77)(texts)
    for mine, reference in zip(ours, theirs, strict=True):
        length = int((reference == 49407).nonzero()[0]) + 1  # open_clip pads with 0, Stable Diffusion with the end
        assert torch.equal(mine[:length], reference[:length])
        assert (mine[length:] == 49407).all()


def test_classifier_folder_loads_and_classifies(toy_photographs, tmp_path):
    recipe = classifier.ClassifierRecipe(steps=2, architecture="test_resnet", **SPEED)
    classifier.run(recipe, toy_photographs, tmp_path / "c.pt", tmp_path / "c.csv", tmp_path / "out")
    encoder = load_encoder(str(tmp_path / "out"))
    assert encoder.input_size == (64, 64)
    images, _ = data.load_split(toy_photographs, "val")
    assert encoder.classify(data.to_unit(images)).shape == (12, 2)
    assert pd.read_csv(tmp_path / "c.csv").columns.tolist() == ["step", "loss", "top1"]


def test_clip_folder_loads_with_both_towers(toy_photographs, tmp_path):
    model = {
        "embed_dim": 8,
        "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 64, "image_size": 64},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
    }
    recipe = clip.CLIPRecipe(steps=2, model=model, **SPEED)
    clip.run(recipe, toy_photographs, tmp_path / "c.pt", tmp_path / "c.csv", tmp_path / "out")
    encoder = load_encoder(str(tmp_path / "out"))
    images, _ = data.load_split(toy_photographs, "val")
    assert encoder(data.to_unit(images)).shape == (12, 8)
    texts = encoder.encode_text(["a photo of a tabby", "a photo of a school bus"])
    lengths = encoder(data.to_unit(images)).norm(dim=1).mean(), texts.norm(dim=1).mean()
    torch.testing.assert_close(*lengths, rtol=2e-2, atol=0)  # half precision


def test_prior_folder_is_a_stable_diffusion_pipeline(toy_photographs, tmp_path):
    vae.run(
        vae.VAERecipe(steps=2, model=VAE, **SPEED),
        toy_photographs,
        tmp_path / "v.pt",
        tmp_path / "v.csv",
        tmp_path / "vae",
    )
    latents = vae.encode(AutoencoderKL.from_pretrained(tmp_path / "vae"), data.load_split(toy_photographs, "train")[0])
    scaled = latents * AutoencoderKL.from_pretrained(tmp_path / "vae").config.scaling_factor
    assert abs(float(scaled.std()) - 1) < 0.02
    recipe = prior.PriorRecipe(steps=2, unet=UNET, text=TEXT, **SPEED)
    prior.run(recipe, toy_photographs, tmp_path / "vae", tmp_path / "p.pt", tmp_path / "p.csv", tmp_path / "out")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "out", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.tokenizer("a photo of a tabby").input_ids == [49406, 320, 1125, 539, 320, 36145, 49407]
    options = {
        "num_inference_steps": 2,
        "guidance_scale": 1.0,
        "output_type": "np",
        "height": 64,
        "width": 64,
    }
    image = pipeline("a photo of a tabby", generator=torch.Generator().manual_seed(0), **options).images
    assert image.shape == (1, 64, 64, 3) and np.isfinite(image).all()


def test_a_prior_does_not_go_on_with_another_autoencoder(toy_photographs, tmp_path):
    for seed in (0, 1):
        small = vae.VAERecipe(steps=1, model=VAE, **SPEED | {"seed": seed})
        vae.run(small, toy_photographs, tmp_path / f"{seed}.pt", tmp_path / f"{seed}.csv", tmp_path / f"{seed}")
    recipe = prior.PriorRecipe(steps=1, unet=UNET, text=TEXT, **SPEED)
    files = tmp_path / "p.pt", tmp_path / "p.csv"
    prior.run(recipe, toy_photographs, tmp_path / "0", *files, tmp_path / "out")
    with pytest.raises(FeatspaceError, match="p.pt: trained on another autoencoder's latents"):
        prior.run(recipe, toy_photographs, tmp_path / "1", *files, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    files[0].unlink()
    prior.run(recipe, toy_photographs, tmp_path / "1", *files, tmp_path / "again")


def test_photographs_come_from_the_public_archive(tmp_path):
    """Every training image of the listed classes, and of each the first validation images that the list names."""
    archive, annotations = tmp_path / "tiny-imagenet-200", []
    (archive / "val" / "images").mkdir(parents=True)
    for wnid, level in (("n01", 60), ("n02", 180), ("n03", 240)):
        (archive / "train" / wnid / "images").mkdir(parents=True)
        for i in range(3):
            image = Image.new("L" if i == 0 else "RGB", (64, 64), level if i == 0 else (level, level, level))
            image.save(archive / "train" / wnid / "images" / f"{wnid}_{i}.JPEG")
            image.save(archive / "val" / "images" / f"val_{wnid}_{i}.JPEG")
            annotations.append(f"val_{wnid}_{i}.JPEG\t{wnid}\t0\t0\t62\t62")
    (archive / "val" / "val_annotations.txt").write_text("\n".join(annotations))
    classes = tmp_path / "classes.json"
    names = [{"label": 0, "wnid": "n02", "name": "dog"}, {"label": 1, "wnid": "n01", "name": "cat, tabby"}]
    classes.write_text(json.dumps(names))
    photographs.run(archive, classes, tmp_path / "out")
    for split in ("train", "val"):
        images, labels = data.load_split(tmp_path / "out", split)
        assert labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert (images.float().mean((1, 2, 3)) - torch.tensor([180.0] * 3 + [60.0] * 3)).abs().max() < 3
    assert data.class_names(tmp_path / "out") == ["dog", "cat"]
    (archive / "val" / "val_annotations.txt").unlink()
    with pytest.raises(FeatspaceError, match="val_annotations.txt: no such file"):
        photographs.run(archive, classes, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_new_model_removes_the_manifest_that_it_breaks(toy_photographs, tmp_path):
    """Else the references and the card, which verify what they load, would refuse it."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "SHA256SUMS").write_text(f"{'0' * 64}  vit/model.safetensors\n")
    recipe = "vit: {steps: 2, batch: 4, lr: 1.0e-3, architecture: test_resnet}"
    (tmp_path / "params.yaml").write_text(recipe)
    where = {"params": tmp_path / "params.yaml", "photographs": toy_photographs}
    out = tmp_path / "models" / "vit"
    train("vit", out, checkpoints=tmp_path / "checkpoints", curves=tmp_path / "curves", **where)
    assert load_encoder(str(out)).has_classifier


def test_a_model_is_trained_by_one_process_at_a_time(toy_photographs, tmp_path):
    (tmp_path / "params.yaml").write_text("vit: {steps: 2, batch: 4, lr: 1.0e-3, architecture: test_resnet}")
    work = {"checkpoints": tmp_path / "checkpoints", "curves": tmp_path / "curves"}
    work["checkpoints"].mkdir()
    with alone(tmp_path / "checkpoints" / "vit.pt"), pytest.raises(FeatspaceError, match="another run is making it"):
        train("vit", tmp_path / "vit", params=tmp_path / "params.yaml", photographs=toy_photographs, **work)
    assert not list(work["checkpoints"].iterdir()) and not (tmp_path / "vit").exists()


def test_a_folder_that_is_not_empty_is_refused_before_anything_is_trained(toy_photographs, tmp_path):
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "config.json").write_text("{}")
    (tmp_path / "params.yaml").write_text("vit: {steps: 2, batch: 4, lr: 1.0e-3, architecture: test_resnet}")
    work = {"checkpoints": tmp_path / "checkpoints", "curves": tmp_path / "curves"}
    with pytest.raises(FeatspaceError, match="vit: the folder is not empty"):
        train("vit", tmp_path / "vit", params=tmp_path / "params.yaml", photographs=toy_photographs, **work)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_shipped_recipes_train(name, gpu, toy_photographs, toy_teacher, tmp_path, monkeypatch):
    """Each recipe of training/params.yaml, but for two steps of two images, with a toy teacher."""
    monkeypatch.chdir(RECIPES.parent)
    recipe = read_recipe(RECIPES, name, gpu)
    longer = read_recipe(RECIPES, name, True)
    assert longer.steps * longer.batch > 5 * recipe.steps * recipe.batch or gpu
    changes = {"steps": 2, "batch": 2}
    if name == "vit":  # as the toy photographs have two classes
        changes["start"] = None
    if getattr(recipe, "teacher", None) is not None:
        changes["teacher"] = recipe.teacher.model_copy(update={"network": toy_teacher})
    recipe = recipe.model_copy(update=changes)
    files = tmp_path / "checkpoint.pt", tmp_path / "curve.csv", tmp_path / "out"
    run = {"vae": vae.run, "clip": clip.run}.get(name, classifier.run)
    if name == "prior":
        small = vae.VAERecipe(steps=1, model=VAE, **SPEED)
        vae.run(small, toy_photographs, tmp_path / "v.pt", tmp_path / "v.csv", tmp_path / "vae")
        prior.run(recipe, toy_photographs, tmp_path / "vae", *files)
    else:
        run(recipe, toy_photographs, *files)
    curve = pd.read_csv(tmp_path / "curve.csv")
    assert curve["step"].iloc[-1] == 2 and np.isfinite(curve).all(axis=None)
