"""The guided decoder against the reference trajectories of the official implementation, and its invariants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_models import DTYPE, ToyEncoder, ToyUNet, ToyVAEDecoder, scaled_linear_betas, target_feature

from featspace.methods.problem import Problem
from featspace.methods.self_recurrence import Schedule, conditioned, paper, sample_with_recurrence
from featspace.utils.errors import FeatspaceError, UsageError

LATENT_SCALE = 0.18215


def alphas_cumprod(timesteps: int) -> torch.Tensor:
    return torch.cumprod(1 - scaled_linear_betas(timesteps), 0)


def problem_of_toys(seed: int, timesteps: int, targets: torch.Tensor, draw_noise) -> Problem:
    """The toy networks' problem; draw_noise as `noise_of` makes it."""
    unet, vae = ToyUNet(seed, timesteps), ToyVAEDecoder(seed)
    decode = lambda z: vae(z / LATENT_SCALE)  # noqa: E731
    return Problem(unet, decode, ToyEncoder(seed), targets, draw_noise, alphas_cumprod(timesteps))


def noise_of(*seeds: int):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return lambda: torch.stack([torch.randn(4, 8, 8, generator=g, dtype=DTYPE) for g in generators])


def decode(seeds=(3,), weight=4.0, clip_std=3.0, targets=None, schedule=None, **options):
    targets = target_feature(5) if targets is None else targets
    schedule = schedule or Schedule.spaced(alphas_cumprod(20), 20, 2, 2, 5)
    problem = problem_of_toys(5, 20, targets, noise_of(*seeds))
    return sample_with_recurrence(problem, schedule, weight, clip_std, **options)


@pytest.mark.parametrize("case", ["a", "b"])
def test_reproduces_the_official_trajectory(case):
    ref = np.load(Path(__file__).parent / f"trajectory_{case}.npz")
    timesteps, seed = int(ref["timesteps"]), int(ref["seed"])
    schedule = Schedule.spaced(
        alphas_cumprod(timesteps),
        timesteps,
        int(ref["recurrences"]),
        timesteps - int(ref["emphasis_from_t"]),
        int(ref["emphasis_recurrences"]),
    )
    target = torch.from_numpy(ref["target"]).reshape(1, -1)
    np.testing.assert_allclose(target_feature(seed), target, rtol=1e-12)
    seen = []
    clip_std = float(ref["clip_std"])
    result = sample_with_recurrence(
        problem_of_toys(seed, timesteps, target, noise_of(int(ref["noise_seed"]))),
        schedule,
        float(ref["guidance_weight"]),
        clip_std if clip_std >= 0 else None,
        seen.append,
    )

    def same(ours, name):
        ours = ours.detach().numpy() if torch.is_tensor(ours) else np.asarray(ours)
        np.testing.assert_allclose(ours, ref[name].reshape(ours.shape), rtol=1e-9, atol=1e-9, err_msg=name)

    assert len(seen) == schedule.evaluations == len(ref["distance_before"])
    same(torch.cat([step.latents for step in seen]), "latents")
    same(torch.cat([step.distance_before for step in seen]), "distance_before")
    same(torch.cat([step.distance_after for step in seen]), "distance_after")
    same(result.distances, "best_distance")
    same(result.images, "best_image")
    same(result.timesteps, "best_t")
    same(result.recurrences, "best_recurrence")
    same(result.last_distances, "final_distance")
    same(result.last_images, "final_image")


def test_the_papers_schedule_is_the_default():
    betas = scaled_linear_betas(1000)
    schedule = Schedule.spaced(torch.cumprod(1 - betas, 0))
    assert schedule.evaluations == 12_960
    assert schedule.timesteps == list(range(999, -1, -1))
    assert schedule.recurrences == [1000] * 5 + [8] * 995
    np.testing.assert_allclose(schedule.betas, betas.flip(0), rtol=1e-9)


def test_respaced_steps_remove_the_same_noise():
    bars = alphas_cumprod(1000)
    schedule = Schedule.spaced(bars, 50, 2, 5, 12)
    assert schedule.timesteps[0] == 999 and schedule.timesteps[-1] == 0
    assert schedule.evaluations == 5 * 12 + 45 * 2
    np.testing.assert_allclose(np.prod(1 - np.array(schedule.betas)), bars[-1], rtol=1e-9)


def test_weight_zero_is_the_plain_ancestral_sampler():
    """Against the sampler written out with the posterior mean in its other form (DDPM, Ho et al. 2020, eq. 7)."""
    bars = alphas_cumprod(20)
    result = decode(weight=0.0, schedule=Schedule.spaced(bars, 20, 1, 0, 1))
    unet, vae = ToyUNet(5, 20), ToyVAEDecoder(5)
    draw = noise_of(3)
    z = draw()
    for t in range(19, -1, -1):
        bar, before = bars[t], bars[t - 1] if t else torch.ones((), dtype=DTYPE)
        clean = (z - (1 - bar).sqrt() * unet(z, t)) / bar.sqrt()
        beta = 1 - bar / before
        mean = before.sqrt() * beta / (1 - bar) * clean + (1 - beta).sqrt() * (1 - before) / (1 - bar) * z
        z = mean + beta.sqrt() * draw() if t else clean
    torch.testing.assert_close(result.latents, z, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(result.last_images, vae(z / LATENT_SCALE), rtol=1e-9, atol=1e-9)


def test_guidance_brings_the_feature_nearer():
    assert decode().distances < 0.5 * decode(weight=0.0).distances


def test_a_sample_does_not_depend_on_its_batch():
    targets = torch.cat([target_feature(5), target_feature(6)])
    both = decode(seeds=(3, 4), targets=targets)
    alone = decode(seeds=(4,), targets=targets[1:])
    torch.testing.assert_close(both.images[1:], alone.images, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(both.last_images[1:], alone.last_images, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(both.distances[1:], alone.distances, rtol=1e-9, atol=1e-9)


def test_the_trace_is_one_tensor():
    """Small tensors kept from each of 12,960 evaluations once fragmented the heap by 22 GB."""
    result = decode()
    assert len({part.untyped_storage().data_ptr() for _, *parts in result.trace for part in parts}) == 1


def test_the_best_image_has_the_least_distance_seen():
    result = decode()
    trace = torch.stack([torch.cat([before, after]) for _, before, after in result.trace])
    assert result.distances == trace.min()
    encoder = ToyEncoder(5)
    again = (encoder(result.images) - target_feature(5)).square().sum(1)
    torch.testing.assert_close(again, result.distances)


def test_two_runs_agree_bit_for_bit():
    assert torch.equal(decode().images, decode().images)


def test_conditioned_gradient_has_the_length_of_the_noise_and_no_outliers():
    gradient, eps = torch.randn(2, 4, 8, 8, dtype=DTYPE), torch.randn(2, 4, 8, 8, dtype=DTYPE)
    gradient[1] *= 1e6
    free = conditioned(gradient, eps, None)
    torch.testing.assert_close(free.flatten(1).norm(dim=1), eps.flatten(1).norm(dim=1))
    clamped = conditioned(gradient, eps, 1.0).flatten(1)
    limit = free.flatten(1).mean(1) + free.flatten(1).std(1)
    torch.testing.assert_close(clamped.max(1).values, limit)


def test_a_gradient_that_is_not_finite_leaves_its_sample_unguided():
    gradient, eps = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    gradient[1, 0, 0, 0] = torch.nan
    gradient[2] = 0
    out = conditioned(gradient, eps, 3.0)
    assert out[0].abs().sum() > 0 and not out[1:].any()


def test_a_target_that_is_not_finite_is_named():
    with pytest.raises(FeatspaceError, match="never finite"):
        decode(targets=torch.full((1, 12), torch.nan, dtype=DTYPE))


@pytest.mark.parametrize("steps", [1, 21])
def test_steps_outside_the_schedule_are_refused(steps):
    with pytest.raises(UsageError, match=f"steps is {steps}"):
        Schedule.spaced(alphas_cumprod(20), steps)


def test_a_callback_may_change_what_the_sampler_goes_on_with():
    given, seen = torch.full((1, 4, 8, 8), 0.25, dtype=DTYPE), []

    def change(step):
        seen.append(step)
        return given if step.index == 3 else None

    decode(callback=change)
    assert torch.equal(seen[4].latents, given) and torch.equal(seen[1].latents, seen[0].next_latents)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_out_of_range_is_refused(weight):
    with pytest.raises(UsageError, match="weight is .*: it must be a number and at least 0"):
        paper(problem_of_toys(5, 20, target_feature(5), noise_of(1)), steps=2, weight=weight)
