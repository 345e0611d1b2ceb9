"""Ways from a feature to an image: pure functions of tensors and callables.

To add one: a function as `problem.Method` says, and a line in `METHODS`.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from featspace.methods import baselines
from featspace.methods.noise_optimization import optimize_noise
from featspace.methods.problem import Method
from featspace.methods.self_recurrence import Schedule, paper

METHODS: dict[str, Method] = {
    "fast": optimize_noise,
    "paper": paper,
    "universal": baselines.universal,
    "mpgd": baselines.mpgd,
    "dsg": baselines.dsg,
    "tfg": baselines.tfg,
    "latent_adam": baselines.latent_adam,
    "pixel_adam": baselines.pixel_adam,
    "best_of": baselines.best_of,
}
"""By the names that the pipeline, the parameters and the benchmark know."""


def evaluations_of(method: Method, alphas_cumprod: Tensor, settings: dict[str, Any]) -> int:
    """Guided evaluations of one image by a method with these settings, at most; `alphas_cumprod` is (T,).

    Raises UsageError for a schedule that is out of range.
    """
    given = inspect.signature(method).bind_partial(**settings)
    given.apply_defaults()
    if "evaluations" in given.arguments:
        return given.arguments["evaluations"]
    names = "steps", "recurrences", "emphasis_steps", "emphasis_recurrences"
    return Schedule.spaced(alphas_cumprod, *(given.arguments[name] for name in names)).evaluations
