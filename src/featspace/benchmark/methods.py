"""The table of the methods that are compared, `fast` among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from featspace.methods import baselines
from featspace.methods.baselines import Problem
from featspace.methods.copies import RandomCopies
from featspace.methods.noise_optimization import fast_decode


def fast(problem: Problem, evaluations: int, weight: float) -> None:
    """The preset `fast`, which has no weight."""
    decoded = fast_decode(
        problem.predict_noise,
        problem.decode_latents,
        problem.encode,
        problem.targets,
        problem.draw_noise,
        problem.alpha_bars,
        evaluations,
        None if problem.is_map else RandomCopies(problem.generators),
    )
    problem.keep(decoded.images, decoded.distances)


class Method(NamedTuple):
    """A way to decode a `Problem` in a number of evaluations, with a weight if it has one."""

    decode: Callable[[Problem, int, float], None]
    weights: tuple[float, ...] = (0.0,)
    """What it is tuned over; one alone is not tuned."""


METHODS = {
    "fast": Method(fast),
    "paper": Method(baselines.paper, (0.5, 1.0, 2.0, 4.0)),
    "paper_even": Method(baselines.paper_even, (0.5, 1.0, 2.0, 4.0)),
    "universal": Method(baselines.universal, (4.0, 16.0, 64.0, 256.0)),
    "mpgd": Method(baselines.mpgd, (0.1, 0.2, 0.4, 0.8)),
    "dsg": Method(baselines.dsg, (0.1, 0.2, 0.4, 0.8)),
    "tfg": Method(baselines.tfg, (0.05, 0.1, 0.2, 0.4)),
    "latent_adam": Method(baselines.latent_adam, (0.03, 0.1, 0.3, 1.0)),
    "pixel_adam": Method(baselines.pixel_adam, (0.01, 0.03, 0.1, 0.3)),
    "best_of": Method(baselines.best_of),
}
AUTOENCODER = "autoencoder"
"""No method: the autoencoder's own reconstruction of the photograph, in 0 evaluations."""
