"""The methods that are compared, on a prior with closed forms."""

from __future__ import annotations

import pytest
import torch
from noise_problem import BARS, gaussian_noise, painted

from featspace.benchmark.methods import METHODS
from featspace.methods import METHODS as ALL
from featspace.methods.copies import RandomCopies
from featspace.methods.problem import Problem, Record
from featspace.utils.errors import FeatspaceError

WEIGHTED = [name for name, method in METHODS.items() if len(method.weights) > 1]


GRAY = 0.1
"""The target: images of this color all over."""


def pixels(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1)


def problem(*seeds: int, encode=pixels, target=GRAY) -> Problem:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds or (1,)]
    targets = torch.full((len(generators), 192), target)

    def draw_noise(shape=(4, 8, 8)):
        return torch.stack([torch.randn(shape, generator=generator) for generator in generators])

    copy = RandomCopies(generators)
    return Problem(gaussian_noise, painted, encode, targets, draw_noise, BARS, copy, image_shape=(3, 8, 8))


def decoded(name: str, evaluations: int, weight: float, *seeds: int) -> tuple[torch.Tensor, torch.Tensor]:
    found = METHODS[name].decode(problem(*seeds), evaluations, weight)
    return found.images, found.distances


@pytest.mark.parametrize("name", WEIGHTED)
def test_every_method_is_brought_nearer_by_its_weight(name):
    images, distances = decoded(name, 24, METHODS[name].weights[1])
    assert distances.tolist() == pytest.approx((images - GRAY).square().sum((1, 2, 3)).tolist(), rel=1e-5)
    best = min(decoded(name, 24, weight)[1].item() for weight in METHODS[name].weights)
    assert best < 0.8 * decoded(name, 24, 0.0)[1].item()


def test_each_method_that_is_tuned_has_at_least_four_weights():
    assert len(WEIGHTED) == 8 and all(len(set(METHODS[name].weights)) >= 4 for name in WEIGHTED)


def test_the_best_of_more_samples_is_nearer():
    assert decoded("best_of", 8, 0.0)[1] < decoded("best_of", 1, 0.0)[1]


@pytest.mark.parametrize("name", METHODS)
def test_a_sample_does_not_depend_on_the_others(name):
    weight = METHODS[name].weights[0]
    both, alone = decoded(name, 12, weight, 1, 2)[0], decoded(name, 12, weight, 2)[0]
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=1e-3)
    assert (both[0] - both[1]).abs().max() > 0.01


@pytest.mark.parametrize("name", METHODS)
def test_no_method_takes_more_evaluations_than_it_was_given(name):
    seen = []

    def encode(images):
        seen.append(images.requires_grad)
        return images.flatten(1)

    given = problem(encode=encode)
    given.copy = None  # a pass is an evaluation
    found = METHODS[name].decode(given, 26, METHODS[name].weights[0])
    guided = len(seen) - 1 if name == "best_of" else sum(seen)  # the last images are seen once more
    assert 26 - 3 <= guided <= 26 and found.evaluations.tolist() == [guided] and len(found.trace) == guided


@pytest.mark.parametrize("name", ALL)
def test_a_callback_sees_each_evaluation_and_may_change_what_the_method_goes_on_with(name):
    seen = []
    settings = {"steps": 3, "recurrences": 2, "emphasis_steps": 0} if name == "paper" else {"evaluations": 8}
    ALL[name](problem(), callback=seen.append, **settings)
    assert [step.index for step in seen] == list(range(len(seen))) and len(seen) >= 6
    shape = (1, 3, 8, 8) if name == "pixel_adam" else (1, 4, 8, 8)
    assert all(step.latents.shape == step.next_latents.shape == shape for step in seen)
    changed = ALL[name](problem(), callback=lambda step: torch.zeros_like(step.latents), **settings)
    assert not torch.equal(changed.last_images, ALL[name](problem(), **settings).last_images)


def test_a_first_distance_that_is_not_a_number_does_not_stay_the_nearest():
    """`x < nan` is false for every x."""
    record = Record(2, 2)
    first, second = torch.full((2, 3, 8, 8), 0.1), torch.full((2, 3, 8, 8), 0.2)
    for images, distances in ((first, [torch.nan, 1.0]), (second, [5.0, torch.nan])):
        record.keep(images, torch.tensor(distances), 0, 0)
        record.add(0, 0, images, torch.tensor(distances))
    found = record.decoded(problem(1, 2), torch.zeros(2, 4, 8, 8))
    assert found.distances.tolist() == [5.0, 1.0]
    assert torch.equal(found.images, torch.stack([second[0], first[1]]))


@pytest.mark.parametrize("name", METHODS)
def test_a_distance_that_is_never_finite_is_no_image(name):
    given = problem(encode=lambda images: images.flatten(1) * torch.nan)
    with pytest.raises(FeatspaceError, match="never finite"):
        METHODS[name].decode(given, 8, METHODS[name].weights[0])


def test_pixel_adam_stays_within_the_colors_and_asks_no_prior():
    given = problem(target=9.0)
    given.predict_noise = given.decode_latents = None
    assert METHODS["pixel_adam"].decode(given, 40, 0.3).images.unique().tolist() == [1.0]
