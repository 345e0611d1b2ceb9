"""The methods that are compared: each at a budget of guided evaluations, and at several weights if it has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from featspace.methods import METHODS as ALL
from featspace.methods.problem import Decoded, Method, Problem
from featspace.methods.self_recurrence import Schedule, sample_with_recurrence


class Compared(NamedTuple):
    """A way to decode a `Problem` in a number of evaluations, with a weight if it has one."""

    decode: Callable[[Problem, int, float], Decoded]
    module: str
    """Of `featspace.methods`: its code is what a result depends on."""
    weights: tuple[float, ...] = (0.0,)
    """What it is tuned over; one alone is not tuned."""


def paper_in(clip_std: float | None, emphasis: bool = True) -> Callable[[Problem, int, float], Decoded]:
    """The paper's update; a third of the evaluations at the first tenth of the steps, or each step twice."""

    def decode(problem: Problem, evaluations: int, weight: float) -> Decoded:
        alphas = problem.alphas_cumprod
        if emphasis:
            steps = max(2, round(evaluations / 2.6))
            first = max(1, steps // 10)
            extra = (evaluations - 2 * (steps - first)) // first
            schedule = Schedule.spaced(alphas, steps, 2, first, extra)
        else:
            schedule = Schedule.spaced(alphas, evaluations // 2, 2, 0, 1)
        return sample_with_recurrence(problem, schedule, weight, clip_std)

    return decode


def _weighted(method: Method) -> Callable[[Problem, int, float], Decoded]:
    return lambda problem, evaluations, weight: method(problem, evaluations=evaluations, weight=weight)


def _unweighted(method: Method) -> Callable[[Problem, int, float], Decoded]:
    return lambda problem, evaluations, _: method(problem, evaluations=evaluations)


def compared(clip_std: float | None = 3.0) -> dict[str, Compared]:
    """By name; `clip_std` is the paper's clipping threshold for the encoder at hand."""
    return {
        "fast": Compared(_unweighted(ALL["fast"]), "noise_optimization"),
        "paper": Compared(paper_in(clip_std), "self_recurrence", (0.5, 1.0, 2.0, 4.0)),
        "paper_even": Compared(paper_in(clip_std, emphasis=False), "self_recurrence", (0.5, 1.0, 2.0, 4.0)),
        "universal": Compared(_weighted(ALL["universal"]), "baselines", (4.0, 16.0, 64.0, 256.0)),
        "mpgd": Compared(_weighted(ALL["mpgd"]), "baselines", (0.1, 0.2, 0.4, 0.8)),
        "dsg": Compared(_weighted(ALL["dsg"]), "baselines", (0.1, 0.2, 0.4, 0.8)),
        "tfg": Compared(_weighted(ALL["tfg"]), "baselines", (0.05, 0.1, 0.2, 0.4)),
        "latent_adam": Compared(_weighted(ALL["latent_adam"]), "baselines", (0.03, 0.1, 0.3, 1.0)),
        "pixel_adam": Compared(_weighted(ALL["pixel_adam"]), "baselines", (0.01, 0.03, 0.1, 0.3)),
        "best_of": Compared(_unweighted(ALL["best_of"]), "baselines"),
    }


METHODS = compared()
AUTOENCODER = "autoencoder"
"""No method: the autoencoder's own reconstruction of the photograph, in 0 evaluations."""
