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
    values, sizes = np.concatenate(groups), np.array([len(group) for group in groups])
    starts, generator, statistics = np.cumsum(sizes) - sizes, np.random.default_rng(seed), []
    for _ in range(resamples):
        draw = generator.integers(len(groups), size=len(groups))
        ends = np.cumsum(sizes[draw])
        within = np.arange(ends[-1]) - np.repeat(ends - sizes[draw], sizes[draw])
        statistics.append(statistic(values[np.repeat(starts[draw], sizes[draw]) + within]))
    low, high = np.quantile(statistics, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
