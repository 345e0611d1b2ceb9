"""How sure a statistic is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from featspace.utils.errors import FeatspaceError


def bootstrap_interval(
    values_by_target: Mapping[str, Sequence[float]],
    statistic: Callable[[np.ndarray], float] = np.median,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval (Efron and Tibshirani 1993, chapter 13) of a statistic of all values.

    Targets are resampled and bring all their samples along, which are not independent of each other.
    Deterministic in `seed`. Raises FeatspaceError if there is no target.
    """
    groups = [np.asarray(values, dtype=float) for values in values_by_target.values()]
    if not groups:
        raise FeatspaceError("bootstrap: no target to resample; give at least one")
    draws = np.random.default_rng(seed).integers(len(groups), size=(resamples, len(groups)))
    statistics = [statistic(np.concatenate([groups[target] for target in draw])) for draw in draws]
    low, high = np.quantile(statistics, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
