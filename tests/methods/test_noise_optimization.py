"""The preset `fast`: against a prior with closed forms, against the paper's preset, and its invariants."""

from __future__ import annotations

import pytest
import torch
from test_self_recurrence import alphas_cumprod, noise_of, problem_of_toys
from test_self_recurrence import decode as paper_decode
from toy_models import DTYPE, ToyEncoder, ToyVAEDecoder, target_feature

from featspace.methods import noise_optimization as fast
from featspace.methods.noise_optimization import optimize_noise, polar_distance, visits
from featspace.methods.problem import Decoded, Problem
from featspace.utils.errors import FeatspaceError, UsageError

BARS = alphas_cumprod(1000)
CENTER, SPREAD = 0.3, 0.5


def gaussian_noise(z: torch.Tensor, t: int) -> torch.Tensor:
    """The exact noise prediction where latents are normal with mean CENTER and standard deviation SPREAD."""
    bar = BARS[t]
    return (1 - bar).sqrt() * (z - bar.sqrt() * CENTER) / (bar * SPREAD**2 + 1 - bar)


def painted(z: torch.Tensor) -> torch.Tensor:
    """Latents as images of three channels: the fourth is seen by no encoder."""
    return z[:, :3]


def decode(seeds=(3,), targets=None, evaluations=30, encode=None, **options):
    targets = target_feature(5) if targets is None else targets
    problem = problem_of_toys(5, 20, targets, noise_of(*seeds))
    problem.decode_latents = ToyVAEDecoder(5)
    problem.encode = encode or problem.encode
    return optimize_noise(problem, evaluations=evaluations, **options)


def solve(encode, targets, seeds, evaluations, copy=None, preview=None, **options) -> Decoded:
    """With the exact prior of `gaussian_noise`."""
    problem = Problem(gaussian_noise, painted, encode, targets, noise_of(*seeds), BARS, copy, preview)
    return optimize_noise(problem, evaluations=evaluations, **options)


def flat(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1)


def exact(evaluations=60, seeds=(1,), target=0.4, encode=flat, **options):
    return solve(encode, torch.full((len(seeds), 192), target, dtype=DTYPE), seeds, evaluations, **options)


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

    def encode(images):
        sizes.append(len(images))
        return encoder(images)

    whole = decode((3, 4), targets)
    seen = torch.stack([before for _, before, _ in whole.trace])  # (evaluations, 2)
    stop_at = float(seen[:, 0].min() * 1.5)
    result = decode((3, 4), targets, encode=encode, stop_at=stop_at)
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

    def broken(images):
        found = encoder(images)
        nothing = (found[:1] - found[:1].detach()).sqrt()  # its derivative is infinite
        return torch.cat([found[:1] + nothing, found[1:]])

    result = decode((3, 4), targets, encode=broken)
    assert result.unguided.tolist() == [30, 0]
    torch.testing.assert_close(result.distances[1:], decode((4,), targets[1:]).distances, rtol=1e-9, atol=1e-9)


def test_what_cannot_be_decoded_is_refused():
    with pytest.raises(FeatspaceError, match="never finite"):
        decode(targets=torch.full((1, 12), torch.nan, dtype=DTYPE))
    with pytest.raises(FeatspaceError, match="zero all over"):
        decode((3, 4), targets=torch.cat([target_feature(5), torch.zeros(1, 12, dtype=DTYPE)]))
    with pytest.raises(UsageError, match="evaluations is 1"):
        decode(evaluations=1)
    with pytest.raises(UsageError, match="stop_at is NaN"):
        decode(stop_at=float("nan"))


def test_a_callback_may_change_where_the_descent_goes_on():
    given, seen = torch.full((1, 4, 8, 8), 0.25, dtype=DTYPE), []

    def change(step):
        seen.append(step)
        return given if step.index == 3 else None

    exact(callback=change)
    assert torch.equal(seen[4].latents, given) and torch.equal(seen[1].latents, seen[0].next_latents)
