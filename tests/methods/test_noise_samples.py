"""The samples of the preset `fast`: their batch, their end, the nearest of their images, what is refused."""

from __future__ import annotations

import pytest
import torch
from noise_problem import decode, exact, painted
from toy_models import DTYPE, ToyEncoder, target_feature

from featspace.utils.errors import FeatspaceError, UsageError


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
