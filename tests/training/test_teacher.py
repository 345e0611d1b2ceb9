"""What the trainings take from a teacher, on a toy one: feature maps, soft labels, and none of it in what is saved."""

from __future__ import annotations

import shutil

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from featspace_training import classifier, clip, data, prior, vae
from featspace_training.teacher import Teacher, TeacherRecipe, perceptual_error
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_models import TEXT, UNET, VAE

from featspace.utils.errors import FeatspaceError

SPEED = {"batch": 4, "lr": 1e-3}


def test_the_perceptual_error_is_relative_and_zero_for_the_same_image(toy_teacher):
    teacher = Teacher(toy_teacher, 64)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert perceptual_error(teacher, images, images) == 0
    other = images.flip(0).requires_grad_()
    error = perceptual_error(teacher, other, images)
    expected = torch.stack(
        [(a - b).square().sum((1, 2, 3)) / b.square().sum((1, 2, 3)) for a, b in _pairs(teacher, other, images)]
    ).mean()
    torch.testing.assert_close(error, expected)
    error.backward()
    assert other.grad.abs().sum() > 0


def _pairs(teacher, a, b):
    return zip(teacher.maps(a), teacher.maps(b), strict=True)


def test_answers_are_the_networks_own(toy_teacher):
    teacher, images = Teacher(toy_teacher, 96), torch.rand(3, 3, 64, 64)
    features, logits = teacher.answers(images)
    torch.testing.assert_close(features, teacher.encoder(images))
    torch.testing.assert_close(logits, teacher.encoder.classify(images))


def speed(**changes) -> dict:
    return {"steps": 30, "batch": 8, "lr": 3e-3, "warmup": 5, "ema": 0.5} | changes


def autoencoder(folder, photographs, **changes) -> AutoencoderKL:
    """Trained for some steps of eight images, as `changes` say."""
    recipe = vae.VAERecipe(model=VAE, **speed(**changes))
    folder.mkdir()
    vae.run(recipe, photographs, folder / "v.pt", folder / "v.csv", folder / "vae")
    return AutoencoderKL.from_pretrained(folder / "vae", dtype=torch.float32)


@torch.no_grad()
def feature_error(model: AutoencoderKL, teacher: Teacher, images: torch.Tensor) -> float:
    decoded = model.decode(model.encode(images * 2 - 1).latent_dist.mean).sample
    return float(perceptual_error(teacher, (decoded + 1) / 2, images))


def test_the_perceptual_loss_lowers_the_error_of_features(toy_photographs, toy_teacher, tmp_path):
    taught = {"teacher": TeacherRecipe(network=toy_teacher, size=64, weight=10)}
    plain = autoencoder(tmp_path / "plain", toy_photographs)
    with_teacher = autoencoder(tmp_path / "taught", toy_photographs, **taught)
    images = data.to_unit(data.load_split(toy_photographs, "train")[0])
    teacher = Teacher(toy_teacher, 64)
    assert feature_error(with_teacher, teacher, images) < 0.96 * feature_error(plain, teacher, images)


def test_a_frozen_encoder_keeps_the_latents_and_a_start_its_weights(toy_photographs, tmp_path):
    first = autoencoder(tmp_path / "first", toy_photographs, steps=3)
    changes = {"start": str(tmp_path / "first" / "vae"), "frozen_encoder": True, "steps": 3}
    second = autoencoder(tmp_path / "second", toy_photographs, **changes)
    scales = second.config.scaling_factor, first.config.scaling_factor  # of weights in half precision, and before
    assert scales[0] == pytest.approx(scales[1], rel=1e-3)
    kept = {name for name, value in first.state_dict().items() if torch.equal(value, second.state_dict()[name])}
    assert kept >= {name for name in first.state_dict() if name.startswith(("encoder.", "quant_conv."))}
    assert not {"decoder.conv_in.weight", "decoder.conv_out.weight", "post_quant_conv.weight"} & kept
    shutil.rmtree(tmp_path / "first")
    shutil.rmtree(tmp_path / "second" / "vae")
    rewrite = vae.VAERecipe(model=VAE, **speed(steps=3, start=changes["start"], frozen_encoder=True))
    files = (tmp_path / "second" / name for name in ("v.pt", "v.csv", "vae"))
    vae.run(rewrite, toy_photographs, *files)  # what it started with is in the checkpoint
    with pytest.raises(FeatspaceError, match="no weights to start from"):
        autoencoder(tmp_path / "third", toy_photographs, **changes)


@pytest.fixture
def aligned(toy_photographs, toy_teacher, tmp_path):
    """Trains a prior for `steps` with alignment; returns the folder it wrote."""
    autoencoder(tmp_path / "vae", toy_photographs, steps=2)

    def train(steps: int, vae_folder=tmp_path / "vae" / "vae"):
        taught = TeacherRecipe(network=toy_teacher, size=128, weight=1)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        recipe = prior.PriorRecipe(steps=steps, unet=UNET, text=TEXT, teacher=taught, evaluate_every=5, **SPEED)
        prior.run(recipe, toy_photographs, vae_folder, tmp_path / "p.pt", tmp_path / "p.csv", tmp_path / "out")
        return tmp_path / "out"

    return train


def test_the_projection_learns_and_is_not_saved(aligned, tmp_path):
    folder = aligned(40)
    with safe_open(folder / "unet" / "diffusion_pytorch_model.safetensors", "pt") as file:
        assert set(file.keys()) == set(UNet2DConditionModel(**UNET).state_dict())
    StableDiffusionPipeline.from_pretrained(folder)
    state = torch.load(tmp_path / "p.pt", weights_only=True)
    assert any(name.startswith("projection") for name in state["model"])
    assert state["optimizer"]["state"]  # it took part
    losses = [row["loss"] for row in state["progress"][1]]
    assert losses[-1] < losses[0]


def test_latents_are_kept_for_the_next_start_and_made_anew_for_another_autoencoder(
    aligned, toy_photographs, tmp_path, monkeypatch
):
    calls = []
    monkeypatch.setattr(prior, "encode", lambda *args: calls.append(1) or vae.encode(*args))
    aligned(1)
    made = len(calls)
    aligned(1)
    assert made == 2 and len(calls) == 2
    autoencoder(tmp_path / "other", toy_photographs, steps=1)
    (tmp_path / "p.pt").unlink()
    aligned(1, tmp_path / "other" / "vae")
    assert len(calls) == 4


def test_soft_labels_teach_a_classifier_that_is_saved_without_the_second_head(toy_photographs, toy_teacher, tmp_path):
    taught = TeacherRecipe(network=toy_teacher, size=64, weight=1)
    recipe = classifier.ClassifierRecipe(steps=3, architecture="test_resnet", teacher=taught, **SPEED)
    classifier.run(recipe, toy_photographs, tmp_path / "c.pt", tmp_path / "c.csv", tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert not any("second" in name for name in file.keys())  # noqa: SIM118 (not a dict)
    again = recipe.model_copy(update={"start": str(tmp_path / "out"), "lr": 1e-12})
    classifier.run(again, toy_photographs, tmp_path / "d.pt", tmp_path / "d.csv", tmp_path / "again")
    old, new = (load_file(tmp_path / name / "model.safetensors")["fc.weight"] for name in ("out", "again"))
    torch.testing.assert_close(old, new)


def test_captions_of_a_thousand_classes(toy_photographs, toy_teacher, tmp_path):
    captions = data.imagenet_captions()
    assert len(captions) == 1000 and {len(wordings) for wordings in captions} == {4}
    assert captions[281][0] == "a photo of a tabby" and captions[281][2] == "tabby cat"
    model = {
        "embed_dim": 8,
        "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 64, "image_size": 64},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
    }
    taught = TeacherRecipe(network=toy_teacher, size=64, weight=1)
    recipe = clip.CLIPRecipe(steps=2, model=model, teacher=taught, **SPEED)
    clip.run(recipe, toy_photographs, tmp_path / "c.pt", tmp_path / "c.csv", tmp_path / "out")
    with safe_open(tmp_path / "out" / "open_clip_model.safetensors", "pt") as file:
        assert not any("regress" in name for name in file.keys())  # noqa: SIM118 (not a dict)
