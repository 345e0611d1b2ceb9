"""The paper's claims, each held against the tables: effect, interval over targets, test, verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from featspace.metrics.bootstrap import bootstrap_interval
from featspace.utils.tables import (
    ABLATION,
    AGREEMENT,
    ATTRIBUTES,
    BASE,
    CHANCE,
    CLAIMS,
    SIMILARITY,
    TARGET,
    read_table,
    write_table,
)

MATCH = 0.92
"""The cosine similarity that the paper reports its images to exceed."""
EMPHASIS = -5.2
"""Percent by which, as its summary says, early-step emphasis changes the distance."""
PLAIN = "no_emphasis"
"""The ablation's setting that spends the budget of its base evenly."""
LEVEL = 0.05
NAMES = {"color": "color", "layout": "layout", "edges": "edges", "texture": "texture", "judge_cosine": "identity"}
UNITS = {"color": "ΔE₀₀", "texture": "overlap", "judge_cosine": "cosine"}


class Claim(NamedTuple):
    """What is claimed, and the numbers that it is held against."""

    claim: str
    of: str
    published: str
    unit: str
    values: pd.Series
    """A number an image, by target."""
    null: float
    """What it would be if the claim were idle."""
    sign: int
    """1 if the claim is that it is more, −1 if less."""
    statistic: Callable[[np.ndarray], float] = np.median


def run_claims(
    similarities: Sequence[Path], agreement: Path, ablation: Path, out: Path, resamples: int = 2000, seed: int = 0
) -> None:
    """Writes a CSV with tables.CLAIMS' columns, from the tables of `run_similarity`, `run_agreement`, `run_ablation`.

    Of each claim: the median over images, or the share of them; its 95 % interval, bootstrapped over targets; and
    Wilcoxon's signed-rank test (1945), two-sided, of the targets' means. The verdict is `supported` if the number lies
    where it is claimed to, the interval leaves out what an idle claim would give, and p < 0.05; `contradicted` if all
    that holds on the other side; else `undecided`. Raises FeatspaceError for tables that are missing or damaged.
    """
    claims = [*_matches(similarities), *_attributes(agreement), *_emphasis(ablation)]
    write_table(pd.DataFrame([_tested(claim, resamples, seed) for claim in claims], columns=list(CLAIMS)), out)


def _tested(claim: Claim, resamples: int, seed: int) -> dict[str, str | float | int]:
    groups = {str(id): own.to_numpy() for id, own in claim.values.groupby(level=0, sort=False)}
    measured = float(claim.statistic(claim.values.to_numpy()))
    low, high = bootstrap_interval(groups, claim.statistic, resamples=resamples, seed=seed)
    apart = np.array([own.mean() for own in groups.values()]) - claim.null
    p = float(wilcoxon(apart).pvalue) if apart.any() else 1.0
    beyond = claim.sign if low > claim.null else -claim.sign if high < claim.null else 0
    verdict = {1: "supported", -1: "contradicted", 0: "undecided"}[beyond if p < LEVEL else 0]
    counts = {"targets": len(groups), "images": len(claim.values)}
    numbers = {"measured": measured, "low": low, "high": high, "idle": claim.null, "p": p}
    return {**claim._asdict(), **counts, **numbers, "test": "Wilcoxon signed-rank", "verdict": verdict}


def _matches(similarities: Sequence[Path]) -> Iterator[Claim]:
    for path in similarities:
        table = read_table(path, SIMILARITY).query("image == 'best'")
        for (encoder, kind), best in table.groupby(["encoder", "kind"], sort=False):
            cosines, of = best.set_index("id")["cosine"], f"{encoder}, {kind}s"
            above = (cosines > MATCH).astype(float) * 100
            claim = "features of decoded images match the target’s"
            yield Claim(claim, of, f"above {MATCH}", "cosine", cosines, MATCH, 1)
            yield Claim(f"… by a cosine above {MATCH}", of, "all images", "% of images", above, 50, 1, np.mean)


def _attributes(path: Path) -> Iterator[Claim]:
    table = read_table(path, AGREEMENT).set_index(["images", "id", "sample"])
    by_against = {against: own for against, own in table.groupby("against")}
    if CHANCE not in by_against:  # of a single photograph
        return
    for measure in ATTRIBUTES:
        apart = (by_against[TARGET][measure] - by_against[CHANCE][measure]).dropna()
        sign = -1 if measure == "color" else 1  # a difference; the others are similarities
        for images, own in apart.groupby("images", sort=False):
            if own.index.get_level_values("id").nunique() < 2:  # many samples of one target say nothing of others
                continue
            values = own.reset_index("id").set_index("id")[measure]
            claim = f"decoded images have the target’s {NAMES[measure]}"
            unit = f"{UNITS.get(measure, 'correlation')}, minus that with other photographs"
            yield Claim(claim, str(images), "seen in the figures", unit, values, 0, sign)


def _emphasis(path: Path) -> Iterator[Claim]:
    table = read_table(path, ABLATION).pivot(index=["id", "sample"], columns="setting", values="distance")
    if PLAIN in table:
        change = (100 * (table[BASE] / table[PLAIN] - 1)).reset_index("sample", drop=True)
        claim = "early-step emphasis lowers the distance"
        yield Claim(claim, "ablation", f"{EMPHASIS:g} %".replace("-", "−"), "% of the distance", change, 0, -1)
