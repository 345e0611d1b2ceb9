"""How much the metrics of a build differ from seed to seed, and so by how much a rebuild's may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field, ValidationError
from scipy import stats

from featspace.review.compare import leaves
from featspace.utils.errors import FeatspaceError, UsageError, one_line
from featspace.utils.files import atomic_file
from featspace.utils.schema import Section
from featspace.utils.texts import parse_json

CHANCE = 0.05
"""How often a rebuild that differs as another seed does lies outside in any of its metrics, at most."""
FLOOR = 1e-3
"""What a metric b may differ by in any case, as a share of max(1, |b|): some do not depend on the seed."""
IMAGES = 2
"""What a share of images may differ by in any case: with few images it moves by whole ones."""
BOUNDS = ("_low", "_high")
"""Ends of the names of an interval's bounds, which say how uncertain another metric is, and are not compared."""


class Spread(Section):
    """Standard deviations of metrics over the builds of several seeds, by path, such as clip.photo.cosine.median."""

    seeds: list[int] = Field(min_length=3)
    deviations: dict[str, float]


class Outside(NamedTuple):
    """A metric that differs by more than seeds do; `allowed` is 0 for a count."""

    path: str
    committed: Any
    rebuilt: Any
    allowed: float

    def __str__(self) -> str:
        return f"{self.path} is {self.rebuilt}, committed {self.committed}, allowed ±{self.allowed:.3g}"


def run_spread(paths: Sequence[Path], out: Path) -> None:
    """Writes a Spread as JSON, of the metrics.json of builds that differ in their seeds, each named <seed>.json.

    Raises UsageError for fewer than three, and for names that are no seeds; FeatspaceError for what cannot be read, and
    for builds whose metrics are not the same ones or whose counts differ.
    """
    by_seed: dict[int, Path] = {}
    for path in paths:
        if not path.stem.isdecimal() or by_seed.setdefault(int(path.stem), path) != path:
            raise UsageError(f"{path}: its name is no seed, or another's; name the metrics of each build <seed>.json")
    if len(by_seed) < 3:
        raise UsageError(f"{len(by_seed)} builds say little of a spread; name the metrics of at least three")
    builds = {path: read_metrics(path) for _, path in sorted(by_seed.items())}
    first, *others = builds
    for path in others:
        if odd := [name for name in _counts_and_names(builds[first]) ^ _counts_and_names(builds[path])]:
            raise FeatspaceError(
                f"{first} and {path}: differ in {min(odd)[0]}, which no seed changes; build them again"
            )
    deviations = {
        name: float(f"{np.std([build[name] for build in builds.values()], ddof=1):.3g}")
        for name in sorted(_compared(builds[first]))
    }
    spread = Spread(seeds=sorted(by_seed), deviations=deviations)
    with atomic_file(out) as partial:
        partial.write_text(spread.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_spread(path: Path) -> Spread:
    """Raises FeatspaceError if it is not there or cannot be read."""
    try:
        return Spread.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        make = "make it with `featspace spread` (docs/reproducibility.md)"
        raise FeatspaceError(f"{path}: not there, so it is not known by how much seeds differ; {make}") from None
    except (OSError, ValidationError) as error:
        raise FeatspaceError(f"{path}: cannot be read ({one_line(error)}); write it again") from error


def read_metrics(path: Path) -> dict[str, Any]:
    """The numbers of a metrics.json by path. Raises FeatspaceError if it cannot be read."""
    try:
        return dict(leaves(parse_json(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError) as error:
        raise FeatspaceError(f"{path}: cannot be read ({one_line(error)}); write it again") from error


def outside(committed: Mapping[str, Any], rebuilt: Mapping[str, Any], spread: Spread) -> list[Outside]:
    """The metrics that differ by more than builds of two seeds do, the farthest first.

    A metric may differ by t·√2·s and FLOOR or IMAGES: s is its standard deviation over n seeds, √2·s that of a
    difference of two builds, and t Student's quantile with n - 1 degrees of freedom at which only CHANCE of such builds
    lie outside in any metric (Bonferroni's bound over those that vary). Counts and names must be the same.
    """
    names = _counts_and_names(committed) ^ _counts_and_names(rebuilt)
    found = [Outside(name, committed.get(name), rebuilt.get(name), 0.0) for name in sorted({name for name, _ in names})]
    beyond = []
    factor = 2**0.5 * quantile(spread)
    for name in _compared(committed).keys() & _compared(rebuilt).keys():
        floor = FLOOR * max(1.0, abs(committed[name]))
        if name.rpartition(".")[2].startswith("share"):
            floor += IMAGES / _images(committed, name)
        allowed = factor * spread.deviations.get(name, 0.0) + floor
        if (ratio := abs(rebuilt[name] - committed[name]) / allowed) > 1:
            beyond.append((ratio, Outside(name, committed[name], rebuilt[name], allowed)))
    return found + [metric for _, metric in sorted(beyond, reverse=True)]


def quantile(spread: Spread) -> float:
    """Student's t for CHANCE in all metrics together."""
    varying = sum(deviation > 0 for deviation in spread.deviations.values())
    return float(stats.t.ppf(1 - CHANCE / 2 / max(1, varying), len(spread.seeds) - 1))


def _compared(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: x for name, x in metrics.items() if isinstance(x, float) and not name.endswith(BOUNDS)}


def _counts_and_names(metrics: Mapping[str, Any]) -> set[tuple[str, Any]]:
    """Each metric's name, and, unless it is a fraction, its value."""
    return {(name, "" if isinstance(x, float) else str(x)) for name, x in metrics.items()}


def _images(metrics: Mapping[str, Any], name: str) -> float:
    """How many images a share is of: `images` beside it, or else above it."""
    above = name
    while above:
        above = above.rpartition(".")[0]
        if count := metrics.get(f"{above}.images"):
            return count
    return float("inf")
