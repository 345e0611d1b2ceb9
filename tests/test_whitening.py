"""Partly whitened distances: against their dense formula, and what they are for."""

from __future__ import annotations

import pytest
import torch
from test_fast import BARS, gaussian_noise, painted
from test_guidance import noise_of

from featspace import fast
from featspace.encoders import load_encoder
from featspace.whitening import COUNT, FLOOR, Whitening, whitening_of


def features(count=400, scales=(10.0, 3.0, 1.0, 0.1), seed=0):
    generator = torch.Generator().manual_seed(seed)
    turn, _ = torch.linalg.qr(torch.randn(len(scales), len(scales), generator=generator, dtype=torch.float64))
    return torch.randn(count, len(scales), generator=generator, dtype=torch.float64) * torch.tensor(scales) @ turn + 5


@pytest.mark.parametrize("count", [400, 3])  # with 3, features differ along 2 directions of 4
def test_the_distance_is_that_of_the_covariance_to_the_power_minus_a_quarter(count):
    seen, residuals = features(count), features(7, seed=1)
    covariance = torch.cov(seen.T)
    floor = FLOOR * covariance.trace() / min(4, count - 1)
    values, vectors = torch.linalg.eigh(covariance + floor * torch.eye(4))
    dense = residuals @ vectors / values.clamp_min(floor) ** 0.125
    expected = floor**0.25 * dense.square().sum(1)
    torch.testing.assert_close(Whitening.of(seen).distance(residuals), expected, rtol=1e-5, atol=0)


def test_directions_that_vary_more_count_less_and_others_wholly():
    whitening = Whitening.of(features(scales=(10.0, 1.0, 0.0, 0.0)))
    assert whitening.directions.shape == (4, 2) and whitening.weights[0] < 0.4 * whitening.weights[1] < 1
    rows = torch.randn(5, 4)
    across = rows - rows @ whitening.directions @ whitening.directions.T
    torch.testing.assert_close(whitening.distance(across), across.square().sum(1))


def test_features_that_do_not_differ_or_are_not_finite_leave_the_plain_distance():
    rows, same = torch.randn(5, 4), torch.ones(9, 4)
    broken = torch.cat([features(400).float(), torch.full((3, 4), torch.nan)])
    for seen in (same, same[:1], torch.full((9, 4), torch.inf)):
        torch.testing.assert_close(Whitening.of(seen).distance(rows), rows.square().sum(1))
    torch.testing.assert_close(Whitening.of(broken).distance(rows), Whitening.of(features()).distance(rows))


def test_a_long_narrow_valley_is_descended_sooner():
    """Features that are the image, but stretched unevenly: 1 to 100 between the first pixel and the last."""
    scales = torch.logspace(0, 2, 192, dtype=torch.float64)
    wanted = torch.full((1, 192), 0.2, dtype=torch.float64)

    def residual(images, rows):
        return scales * (images.flatten(1) - wanted)

    seen = scales * torch.randn(2000, 192, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def decoded(whitening):
        return fast.fast_decode(gaussian_noise, painted, residual, noise_of(1), BARS, 40, whitening=whitening)

    plain, whitened = decoded(None), decoded(Whitening.of(seen))
    assert whitened.distances < 0.6 * plain.distances
    torch.testing.assert_close(residual(whitened.images, None).square().sum(1), whitened.distances)  # ℓ, not ℓ̃


def test_crops_are_varied_and_the_same_in_any_batch():
    seen = []

    def encoder(images):
        seen.append(images)
        return images.mean((2, 3))

    one, other = whitening_of(encoder, 16, 64), whitening_of(encoder, 16, 100)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    images = torch.cat(seen[:8])
    assert torch.equal(images, torch.cat(seen[8:])) and images.shape == (COUNT, 3, 16, 16)
    assert images.min() >= 0 and images.max() <= 1 and images.std(0).min() > 0.1
    assert len(images.flatten(1).unique(dim=0)) == COUNT


def test_features_are_whitened_as_photographs_spread_them(project):
    """Of a real network: the direction of the most variance counts least."""
    encoder = load_encoder(str(project / "data/models/clip"))
    whitening = whitening_of(encoder, 64, 64)
    assert (whitening.weights.diff() >= 0).all() and whitening.weights[0] < 0.4 * whitening.weights[-1]
