"""The model card: its numbers against closed forms and direct counts, and the whole card on tiny models."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from featspace_training import cards, data, measures, samples, vae
from PIL import Image

from featspace.encoders.encoder import load_encoder
from featspace.utils.errors import FeatspaceError


def test_frechet_distance_of_gaussians():
    """Uncorrelated features: the sum of (μ_a − μ_b)² + (σ_a − σ_b)²."""
    normal = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    normal = normal - normal.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(normal.T))
    white = normal @ vectors / values.sqrt()
    a = white * torch.tensor([1.0, 2.0, 3.0])
    b = white * torch.tensor([2.0, 2.0, 1.0]) + torch.tensor([0.0, 3.0, 0.0])
    assert measures.frechet_distance(a, b) == pytest.approx(1 + 4 + 9, rel=1e-9)
    assert measures.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_does_not_depend_on_the_axes():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(200, 6, generator=generator, dtype=torch.double) for _ in range(2))
    b = b @ torch.randn(6, 6, generator=generator, dtype=torch.double)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.double)).Q
    distance = measures.frechet_distance(a, b)
    assert measures.frechet_distance(a @ turn, b @ turn) == pytest.approx(distance, rel=1e-9)
    assert measures.frechet_distance(b, a) == pytest.approx(distance, rel=1e-9)


def test_noise_error_is_zero_for_who_knows_the_noise_and_one_for_who_says_none():
    latents, scheduler = torch.randn(300, 4, 8, 8), DDIMScheduler(10, beta_start=0.02, beta_end=0.3)
    clean = iter(latents.split(125))

    def knows(z, t):
        keep = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
        return (z - keep.sqrt() * next(clean)) / (1 - keep).sqrt()

    assert measures.noise_error(knows, latents, scheduler) < 1e-6
    assert measures.noise_error(lambda z, t: torch.zeros_like(z), latents, scheduler) == pytest.approx(1, abs=0.02)


def test_accuracies_are_shares_of_right_answers(project, toy_photographs):
    images, _ = data.load_split(toy_photographs, "val")
    resnet, clip = (load_encoder(str(project / "data/models" / name)) for name in ("resnet", "clip"))
    said = resnet.classify(data.to_unit(images)).argmax(1)
    assert measures.top1(resnet, images, said) == 1
    assert measures.top1(resnet, images, torch.where(torch.arange(12) < 3, said + 1, said)) == 0.75
    said = [measures.zero_shot_top1(clip, images, torch.full((12,), i), ["tabby", "school bus"]) for i in range(2)]
    assert sum(said) == pytest.approx(1)


def test_samples_do_not_depend_on_the_batch(project, tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "STEPS", 2)
    samples.run(project / "data/models/prior", 3, tmp_path / "whole.npy")
    monkeypatch.setattr(samples, "BATCH", 2)
    samples.run(project / "data/models/prior", 3, tmp_path / "parts.npy")
    whole, parts = (np.load(tmp_path / f"{name}.npy").astype(int) for name in ("whole", "parts"))
    assert whole.shape == (3, 64, 64, 3) and np.abs(whole - parts).max() <= 2
    assert np.abs(whole[0] - whole[1]).max() > 1


def test_confidence_is_the_mean_of_the_highest_probability(toy_teacher, toy_photographs):
    images, _ = data.load_split(toy_photographs, "val")
    encoder = load_encoder(toy_teacher)
    highest = [encoder.classify(data.to_unit(image[None])).softmax(1).max() for image in images]
    assert measures.confidence(encoder, images) == pytest.approx(float(torch.stack(highest).mean()), rel=1e-4)


def test_what_is_kept_of_an_image_is_all_of_it_if_nothing_changed(toy_teacher, toy_photographs):
    images, _ = data.load_split(toy_photographs, "val")
    encoder = load_encoder(toy_teacher)
    assert measures.kept(encoder, images, images) == pytest.approx(1, abs=1e-5)
    assert measures.kept(encoder, images, images.flip(0)) < 0.999


def test_reconstructions_do_not_depend_on_the_batch(project, toy_photographs):
    images, _ = data.load_split(toy_photographs, "val")
    autoencoder = AutoencoderKL.from_pretrained(project / "data/models/prior/vae", dtype=torch.float32)
    whole = measures.reconstruct(autoencoder, images).int()
    parts = torch.cat([measures.reconstruct(autoencoder, image[None]).int() for image in images])
    assert whole.shape == (12, 3, 64, 64) and (whole - parts).abs().max() <= 1
    error = (whole - images.int()).square().float().mean((1, 2, 3)) / 255**2
    assert vae.psnr(autoencoder, images) == pytest.approx(float(-10 * error.log10().mean()), abs=0.05)


def test_a_prior_that_stored_photographs_is_found_out(project, toy_photographs, toy_teacher, tmp_path, monkeypatch):
    """Samples that are training photographs lie at distance zero, as in pixels mirrored ones do; the card says it."""
    monkeypatch.setattr(measures, "ENCODER", toy_teacher)
    models = tmp_path / "models"
    shutil.copytree(project / "data/models", models)
    (models / "SHA256SUMS").unlink()
    shutil.copytree(models / "resnet", models / "vit")
    train, _ = data.load_split(toy_photographs, "train")
    np.save(tmp_path / "samples.npy", train.permute(0, 2, 3, 1).numpy())
    cards.run(models, toy_photographs, tmp_path / "samples.npy", project / "params.yaml", tmp_path / "card")
    text = (tmp_path / "card" / "README.md").read_text()
    assert "| … in pixels | 100.0% |" in text and "judge’s features | 100.0% |" in text
    judge = load_encoder(str(project / "data/models/judge"))
    _, (_, mirrored) = measures.measure(models, judge, toy_photographs, train.flip(-1))
    assert 100 * mirrored.samples.max() < mirrored.held_out.min()
    rows, neighbors = measures.measure(models, judge, toy_photographs, train)
    assert all(100 * distances.samples.max() < distances.held_out.min() for distances in neighbors)
    for row in rows:
        name, form = cards.MEASURES[row.measure]
        assert f"| {row.model} | {name} | {form.format(row.value)} |" in text
    for name in ("samples", "reconstructions", "neighbors"):
        assert f"({name}.png)" in text
        with Image.open(tmp_path / "card" / f"{name}.png") as picture:
            assert picture.width == 4200 and len(picture.convert("L").getcolors()) > 10


def test_a_card_without_samples_says_how_to_draw_them(project, toy_photographs, tmp_path):
    with pytest.raises(FeatspaceError, match=r"none\.npy: no samples .*dvc repro samples"):
        cards.run(
            project / "data/models", toy_photographs, tmp_path / "none.npy", project / "params.yaml", tmp_path / "card"
        )
    assert not (tmp_path / "card").exists()
