"""The descent of the preset `fast`: against a prior with closed forms, and against the paper's preset."""

from __future__ import annotations

import pytest
import torch
from noise_problem import BARS, decode, exact, flat, gaussian_noise, sigma, solve
from test_self_recurrence import decode as paper_decode
from test_self_recurrence import noise_of
from toy_models import DTYPE

from featspace.methods import noise_optimization as fast
from featspace.methods.noise_optimization import polar_distance, visits


def test_one_half_of_the_budget_descends_at_the_first_level_and_the_other_at_the_last():
    planned = visits(BARS, 128)
    assert planned[:64] == planned[:1] * 64 and planned[64:] == planned[-1:] * 64
    assert [sigma(planned[0]), sigma(planned[-1])] == pytest.approx(fast.LEVELS, rel=0.01)
    assert visits(BARS, 7) == planned[:3] + planned[-4:]
    assert visits(BARS, 9, started=True) == planned[-1:] * 9
    assert [sigma(t) for t in visits(BARS, 2, level=0.5)] == pytest.approx([fast.LEVELS[0], 0.5], rel=0.01)
    assert visits(BARS[:300], 4) == [299] * 4  # a prior that knows less noise


def test_the_second_level_goes_on_from_the_last_estimate_of_the_first_with_new_noise():
    seen = []
    exact(evaluations=40, callback=seen.append)
    high, low = BARS[seen[0].timestep], BARS[seen[-1].timestep]
    draw = noise_of(1)
    first, new = draw(), draw()
    assert torch.equal(seen[0].latents, first)
    eps = gaussian_noise(seen[19].latents, seen[19].timestep)
    clean = (seen[19].latents - (1 - high).sqrt() * eps) / high.sqrt()
    torch.testing.assert_close(seen[20].latents, low.sqrt() * clean + (1 - low).sqrt() * new, rtol=1e-9, atol=1e-9)


def test_the_first_step_of_a_level_is_adams_of_the_rate_times_the_noise():
    """Adam's first step has the rate's length in each element, which the gradient's sign directs."""
    seen = []
    exact(evaluations=40, callback=seen.append)
    for start in (0, 20):
        noise = (1 - BARS[seen[start].timestep]).sqrt()
        step = seen[start + 1].latents - seen[start].latents
        moved = step[:, :3]  # no feature depends on the fourth channel
        torch.testing.assert_close(moved.abs(), torch.full_like(moved, fast.RATE) * noise, rtol=1e-6, atol=0)


def test_what_no_feature_depends_on_is_left_to_the_denoiser(monkeypatch):
    monkeypatch.setattr(fast, "NORM", 0.0)
    guided = exact(evaluations=128)
    monkeypatch.setattr(fast, "RATE", 0.0)
    monkeypatch.setattr(fast, "LAST_RATE", 0.0)
    free = exact(evaluations=128)
    torch.testing.assert_close(guided.latents[:, 3], free.latents[:, 3], rtol=1e-12, atol=1e-12)
    assert guided.distances < 0.05 * free.distances


def test_latents_are_kept_about_as_long_as_noise(monkeypatch):
    """A target that only latents far from noise would reach."""

    def length():
        seen = []
        exact(evaluations=128, target=2.0, callback=seen.append)
        return float(seen[63].latents.square().mean())

    kept = length()
    monkeypatch.setattr(fast, "NORM", 0.0)
    assert kept < 0.6 * length()


def test_a_start_takes_the_first_levels_place(monkeypatch):
    """The level's noise is added to it, and what the target does not call for stays."""
    start = torch.linspace(-1, 1, 256, dtype=DTYPE).view(1, 4, 8, 8)
    sampled = exact(target=0.2)
    result = exact(target=0.2, start=start)
    assert {t for t, _, _ in result.trace} == {sampled.trace[-1][0]} and int(result.evaluations) == 60
    monkeypatch.setattr(fast, "RATE", 0.0)
    monkeypatch.setattr(fast, "LAST_RATE", 0.0)
    bar = BARS[result.trace[0][0]]
    z = bar.sqrt() * start + (1 - bar).sqrt() * noise_of(1)()
    clean = (z - (1 - bar).sqrt() * gaussian_noise(z, result.trace[0][0])) / bar.sqrt()
    free = exact(target=0.2, start=start)
    torch.testing.assert_close(free.latents, clean)
    assert result.distances < 0.05 * free.distances
    t = exact(start=start, level=2.0).trace[0][0]
    assert ((1 - BARS[t]) / BARS[t]).sqrt() == pytest.approx(2, rel=0.01)


def test_the_polar_distance_is_the_relative_one_but_for_what_a_shorter_feature_gains():
    features, targets = torch.randn(2, 7, 9, generator=torch.Generator().manual_seed(0), dtype=DTYPE)
    lengths, wanted = features.norm(dim=1), targets.norm(dim=1)
    relative = (features - targets).square().sum(1) / wanted**2
    cosine = (features * targets).sum(1) / (lengths * wanted)
    surplus = 2 * (1 - cosine) * (1 - lengths / wanted)
    torch.testing.assert_close(polar_distance(features, targets), relative + surplus)
    assert polar_distance(targets, targets).abs().max() < 1e-12
    near = targets + 1e-4 * features
    torch.testing.assert_close(
        polar_distance(near, targets), (near - targets).square().sum(1) / wanted**2, rtol=2e-3, atol=0
    )
    for scale in (0.0, 1e-3, 1.0):  # a feature that shrinks to nothing is no nearer
        assert (polar_distance(scale * targets, targets) >= (1 - scale) ** 2 - 1e-9).all()
    zero = torch.zeros(1, 9, dtype=DTYPE, requires_grad=True)
    (gradient,) = torch.autograd.grad(polar_distance(zero, targets[:1]).sum(), zero)
    assert gradient.isfinite().all() and gradient.square().isfinite().all()


def test_units_that_are_off_are_switched_on():
    """A feature behind ReLU: what lowers the plain distance first is to switch all off, and none returns from there."""
    mix = torch.randn(192, 400, generator=torch.Generator().manual_seed(2), dtype=DTYPE) / 192**0.5
    wanted = exact(evaluations=2, seeds=(9,)).images

    def encode(images):
        return (images.flatten(1) @ mix - 0.5).relu()

    result = solve(encode, encode(wanted), (1,), 128)
    assert torch.cosine_similarity(encode(result.images), encode(wanted)) > 0.9


def test_copies_have_to_match_too_but_for_the_last_evaluations():
    looked, copied = [], []

    def encode(images):
        looked.append(images.detach())
        return images.flatten(1)

    def copy(images, rows):
        copied.append((len(looked), rows.tolist()))
        return images.flip(-1)

    result = exact(evaluations=40, seeds=(1, 2), encode=encode, copy=copy)
    assert len(copied) == 28 and {tuple(rows) for _, rows in copied} == {(0, 1)}
    assert all(torch.equal(looked[i], looked[i - 1].flip(-1)) for i, _ in copied)
    assert len(looked) == 40 + 28 + 1  # and the image of the last latent
    ramp = torch.linspace(0, 1, 8, dtype=DTYPE).repeat(24)[None]  # its mirror image is another target
    plain = solve(flat, ramp, (1,), 40)
    both = solve(flat, ramp, (1,), 40, copy)
    unevenness = torch.stack([x.images.view(24, 8).mean(0).diff().abs().mean() for x in (plain, both)])
    assert result.distances.isfinite().all() and unevenness[1] < unevenness[0]


def test_nearer_than_the_papers_preset_in_as_many_evaluations():
    paper = paper_decode(weight=0.5, schedule=None)
    spent = int(paper.evaluations)
    assert decode(evaluations=spent).distances < paper.distances


def test_pixels_out_of_range_are_brought_back(monkeypatch):
    """A target whose feature clamping makes indifferent to how far pixels overshoot."""

    def clamped(images):
        return torch.cat([images.clamp(-1, 1).flatten(1), images.new_full((len(images), 1), 3.0)], 1)

    def excess():
        beyond = {"start": torch.full((1, 4, 8, 8), 1.5, dtype=DTYPE), "level": 0.1}
        target = torch.ones(1, 193, dtype=DTYPE)
        result = solve(clamped, target, (1,), 60, **beyond)
        return fast._excess(result.last_images).item()

    monkeypatch.setattr(fast, "NORM", 0.0)
    kept = excess()
    monkeypatch.setattr(fast, "RANGE", 0.0)
    assert kept < 0.7 * excess()
