"""Which attributes decoded images share with their target, and with each other: what the feature has of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from featspace.data.targets import read_targets
from featspace.metrics.bootstrap import bootstrap_interval
from featspace.stages.layers import Seen, compare, see, strangers
from featspace.utils.errors import FeatspaceError
from featspace.utils.tables import (
    AGREED,
    AGREEMENT,
    ATTRIBUTES,
    CHANCE,
    DECODED,
    SAMPLES,
    TARGET,
    read_table,
    write_table,
)

if TYPE_CHECKING:
    from featspace.encoders.encoder import Encoder


def run_agreement(
    judge: Encoder,
    targets: Path,
    decoded: Sequence[Path],
    out: Path,
    summary: Path,
    resamples: int = 2000,
    seed: int = 0,
) -> None:
    """Writes a CSV with tables.AGREEMENT's columns, of the photographs' decoded images in each folder of `decoded`.

    And `summary`, with tables.AGREED's columns: medians, with 95 % intervals bootstrapped over photographs. A row an
    image and what it is held against: TARGET, its photograph; SAMPLES, the other images of the target; CHANCE,
    other photographs (`layers.strangers`): of these the mean. An attribute that samples share, with each other and with
    the target, is in the feature; one that varies between them is not. Raises FeatspaceError for files that are missing
    or damaged.
    """
    photographs = {
        target.id: see(judge, Path(targets) / f"{target.id}.png")
        for target in read_targets(targets)
        if target.kind == "photo"
    }
    others, rows = strangers(list(photographs)), []
    for folder in map(Path, decoded):
        samples = read_table(folder / "decoded.csv", DECODED).groupby("id")["sample"].apply(sorted)
        for id, photograph in photographs.items():
            seen = {sample: see(judge, folder / f"{id}-{sample}.png") for sample in samples.get(id, [])}
            unrelated = [photographs[other] for other in others[id]]
            for sample, image in seen.items():
                siblings = [other for name, other in seen.items() if name != sample]
                for against, group in ((TARGET, [photograph]), (SAMPLES, siblings), (CHANCE, unrelated)):
                    key = {"images": folder.name, "id": id, "sample": sample, "against": against}
                    rows += [{**key, **_mean(image, group)}] if group else []
    if not rows:
        raise FeatspaceError(f"{targets}: no decoded photograph among the targets, of which attributes are compared")
    table = pd.DataFrame(rows, columns=list(AGREEMENT))
    write_table(table, out)
    write_table(_summarize(table, resamples, seed), summary)


def _summarize(table: pd.DataFrame, resamples: int, seed: int) -> pd.DataFrame:
    rows = []
    for (images, against), part in table.groupby(["images", "against"], sort=False):
        for measure in ATTRIBUTES:
            groups = {id: values.to_numpy() for id, values in part[measure].groupby(part["id"], sort=False)}
            interval = bootstrap_interval(groups, np.median, resamples=resamples, seed=seed)
            counts = part["id"].nunique(), len(part)
            rows.append((images, measure, against, part[measure].median(), *interval, *counts))
    return pd.DataFrame(rows, columns=list(AGREED))


def _mean(image: Seen, others: Sequence[Seen]) -> dict[str, float]:
    compared = [compare(image, other) for other in others]
    return {measure: float(np.mean([found[measure] for found in compared])) for measure in ATTRIBUTES}
