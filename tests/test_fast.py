"""The preset `fast`: against a prior with closed forms, against the paper's preset, and its invariants."""

from __future__ import annotations

import pytest
import torch
from test_guidance import alpha_bars, noise_of, toys
from test_guidance import decode as paper_decode
from toy_models import DTYPE, ToyEncoder, target_feature

from featspace import fast
from featspace.errors import FeatspaceError, UsageError
from featspace.fast import fast_decode, visits

BARS = alpha_bars(1000)
CENTER, SPREAD = 0.3, 0.5


def gaussian_noise(z: torch.Tensor, t: int) -> torch.Tensor:
    """The exact noise prediction where latents are normal with mean CENTER and standard deviation SPREAD."""
    bar = BARS[t]
    return (1 - bar).sqrt() * (z - bar.sqrt() * CENTER) / (bar * SPREAD**2 + 1 - bar)


def painted(z: torch.Tensor) -> torch.Tensor:
    """Latents as images of three channels: the fourth is seen by no encoder."""
    return z[:, :3]


def to_match(target: torch.Tensor):
    return lambda images, rows: (images - target[rows]).flatten(1)


def decode(seeds=(3,), targets=None, evaluations=30, residual=None, **options):
    targets = target_feature(5) if targets is None else targets
    unet, vae, _ = toys(5, 20, targets)
    encoder = ToyEncoder(5)
    residual = residual or (lambda x, rows: encoder(x) - targets[rows])
    return fast_decode(unet, vae, residual, noise_of(*seeds), alpha_bars(20), evaluations, **options)


def exact(evaluations=60, seeds=(1,), target=0.0, **options):
    wanted = torch.full((len(seeds), 3, 8, 8), target, dtype=DTYPE)
    return fast_decode(gaussian_noise, painted, to_match(wanted), noise_of(*seeds), BARS, evaluations, **options)


def sigma(t: int) -> float:
    return float(((1 - BARS[t]) / BARS[t]).sqrt())


def test_one_half_of_the_budget_descends_at_the_first_level_and_the_other_at_the_last():
    planned = visits(BARS, 128)
    assert planned[:64] == planned[:1] * 64 and planned[64:] == planned[-1:] * 64
    assert [sigma(planned[0]), sigma(planned[-1])] == pytest.approx(fast.LEVELS, rel=0.01)
    assert visits(BARS, 7) == planned[:3] + planned[-4:]
    assert visits(BARS, 9, started=True) == planned[-1:] * 9
    assert [sigma(t) for t in visits(BARS, 2, level=0.5)] == pytest.approx([fast.LEVELS[0], 0.5], rel=0.01)
    assert visits(BARS[:300], 4) == [299] * 4  # a prior that knows less noise


def test_the_second_level_goes_on_from_a_near_estimate_of_the_first_with_new_noise():
    seen = []
    exact(evaluations=40, callback=seen.append)
    high, low = BARS[seen[0].timestep], BARS[seen[-1].timestep]
    draw = noise_of(1)
    first, new = draw(), draw()
    assert torch.equal(seen[0].latents, first)

    def renoised(step):
        eps = gaussian_noise(step.latents, step.timestep)
        clean = (step.latents - (1 - high).sqrt() * eps) / high.sqrt()
        return low.sqrt() * clean + (1 - low).sqrt() * new

    (taken,) = [step for step in seen[:20] if torch.allclose(seen[20].latents, renoised(step), rtol=1e-9, atol=1e-9)]
    assert taken.distance_before < 1.2 * min(step.distance_before for step in seen[:20])


def test_what_no_feature_depends_on_is_left_to_the_denoiser(monkeypatch):
    monkeypatch.setattr(fast, "NORM", 0.0)
    guided = exact()
    monkeypatch.setattr(fast, "LONGEST", 0.0)
    free = exact()
    torch.testing.assert_close(guided.latents[:, 3], free.latents[:, 3], rtol=1e-12, atol=1e-12)
    assert guided.distances < 0.05 * free.distances


def test_latents_are_kept_about_as_long_as_noise(monkeypatch):
    """A target that only latents far from noise would reach."""

    def length():
        seen = []
        exact(evaluations=40, target=0.9, callback=seen.append)
        return float(seen[19].latents.square().mean())

    kept = length()
    monkeypatch.setattr(fast, "NORM", 0.0)
    assert kept < 1.2 and length() > 3


def test_a_start_takes_the_first_levels_place(monkeypatch):
    """The level's noise is added to it, and what the target does not call for stays."""
    start = torch.linspace(-1, 1, 256, dtype=DTYPE).view(1, 4, 8, 8)
    sampled = exact(target=0.2)
    result = exact(target=0.2, start=start)
    assert {t for t, _, _ in result.trace} == {sampled.trace[-1][0]} and int(result.evaluations) == 60
    assert result.distances < 1e-3 * 192
    monkeypatch.setattr(fast, "LONGEST", 0.0)
    bar = BARS[result.trace[0][0]]
    z = bar.sqrt() * start + (1 - bar).sqrt() * noise_of(1)()
    clean = (z - (1 - bar).sqrt() * gaussian_noise(z, result.trace[0][0])) / bar.sqrt()
    torch.testing.assert_close(exact(target=0.2, start=start).latents, clean)
    torch.testing.assert_close(result.latents[:, 3], clean[:, 3], rtol=1e-12, atol=1e-12)
    t = exact(start=start, level=2.0).trace[0][0]
    assert ((1 - BARS[t]) / BARS[t]).sqrt() == pytest.approx(2, rel=0.01)


def test_nearer_than_the_papers_preset_in_as_many_evaluations():
    paper = paper_decode(weight=0.5, schedule=None)
    spent = int(paper.evaluations)
    assert decode(evaluations=spent).distances < paper.distances


def test_pixels_out_of_range_are_brought_back(monkeypatch):
    """A target whose feature clamping makes indifferent to how far pixels overshoot."""

    def clamped(images, rows):
        return torch.cat([(images.clamp(-1, 1) - 1.0).flatten(1), images.new_full((len(images), 1), 0.1**0.5)], 1)

    def excess():
        beyond = {"start": torch.full((1, 4, 8, 8), 1.5, dtype=DTYPE), "level": 0.1}
        result = fast_decode(gaussian_noise, painted, clamped, noise_of(1), BARS, 60, **beyond)
        return fast._excess(result.last_images).item()

    monkeypatch.setattr(fast, "NORM", 0.0)
    kept = excess()
    monkeypatch.setattr(fast, "RANGE", 0.0)
    assert kept < 0.7 * excess()


def test_a_sample_does_not_depend_on_its_batch():
    targets = torch.cat([target_feature(5), target_feature(6)])
    both = decode((3, 4), targets)
    alone = decode((4,), targets[1:])
    for name in ("images", "last_images", "distances", "latents"):
        torch.testing.assert_close(getattr(both, name)[1:], getattr(alone, name), rtol=1e-9, atol=1e-9)
    assert torch.equal(decode((3, 4), targets).images, both.images)


def test_a_finished_sample_leaves_the_batch_and_the_others_go_on():
    targets, sizes = torch.cat([target_feature(5), target_feature(6)]), []
    encoder = ToyEncoder(5)

    def residual(images, rows):
        sizes.append(len(images))
        return encoder(images) - targets[rows]

    whole = decode((3, 4), targets)
    seen = torch.stack([before for _, before, _ in whole.trace])  # (evaluations, 2)
    stop_at = float(seen[:, 0].min() * 1.5)
    result = decode((3, 4), targets, residual=residual, stop_at=stop_at)
    for sample in range(2):
        below = (seen[:, sample] <= stop_at).nonzero()
        assert result.evaluations[sample] == (below[0, 0] + 1 if len(below) else len(seen))
    first = int(result.evaluations.min())
    assert sizes == [2] * first + [1] * (int(result.evaluations.max()) - first) + [2]  # and both last images
    assert result.distances[0] <= stop_at
    losses = torch.stack([before for _, before, _ in result.trace])
    assert losses[result.evaluations[0] :, 0].isnan().all()
    torch.testing.assert_close(losses[losses.isfinite()], seen[: len(losses)][losses.isfinite()], rtol=1e-9, atol=1e-9)
    done = int(result.evaluations.argmin())
    torch.testing.assert_close(result.last_distances[done], result.distances[done])


def test_the_best_image_has_the_least_distance_seen():
    seen = []
    result = decode(callback=seen.append)
    trace = torch.cat([before for _, before, _ in result.trace])
    assert len(seen) == len(trace) == int(result.evaluations) == 30
    assert result.distances == trace.min() and result.timesteps == result.trace[int(trace.argmin())][0]
    torch.testing.assert_close((ToyEncoder(5)(result.images) - target_feature(5)).square().sum(1), result.distances)


def test_a_preview_takes_the_decoders_place_at_the_first_level_and_is_never_the_result():
    shown = []

    def preview(z):
        shown.append(len(z))
        return painted(z)

    plain, coarse = exact(target=0.5), exact(target=0.5, preview=preview)
    torch.testing.assert_close(coarse.latents, plain.latents)
    high = 30
    assert len(shown) == high

    perfect = torch.full((1, 3, 8, 8), 0.5, dtype=DTYPE)  # it shows the target itself, which is not what D shows
    coarse = exact(target=0.5, preview=lambda z: perfect + 0 * painted(z), stop_at=1e-9)
    assert int(coarse.evaluations) > high  # it ends none
    seen = torch.cat([before for _, before, _ in coarse.trace])
    assert seen[:high].max() == 0 and coarse.distances == seen[high:].nan_to_num(torch.inf).min()


def test_a_gradient_that_is_not_finite_leaves_its_sample_unguided():
    targets, encoder = torch.cat([target_feature(5), target_feature(6)]), ToyEncoder(5)

    def broken(images, rows):
        gap = encoder(images) - targets[rows]
        nothing = torch.where(rows[:, None] == 0, gap - gap.detach(), 1.0).sqrt() * (rows[:, None] == 0)
        return gap + nothing  # its derivative is infinite

    result = decode((3, 4), targets, residual=broken)
    assert result.unguided.tolist() == [30, 0]
    torch.testing.assert_close(result.distances[1:], decode((4,), targets[1:]).distances, rtol=1e-9, atol=1e-9)


def test_what_cannot_be_decoded_is_refused():
    with pytest.raises(FeatspaceError, match="never finite"):
        decode(targets=torch.full((1, 12), torch.nan, dtype=DTYPE))
    with pytest.raises(UsageError, match="evaluations is 1"):
        decode(evaluations=1)
