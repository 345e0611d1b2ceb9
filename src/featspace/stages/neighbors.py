"""The photographs most similar to each target in feature space: what such an image is taken for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch

from featspace.data.features import read_features
from featspace.data.references import read_references
from featspace.data.targets import read_targets
from featspace.metrics.similarity import Nearness
from featspace.utils.errors import FeatspaceError
from featspace.utils.tables import NEIGHBORS, write_table

TARGET, REFERENCE = "target", "reference"
UNKNOWN = "photograph"
"""In place of a class that is not known."""


def run_neighbors(by_encoder: Mapping[str, tuple[Path, Path | None]], targets: Path, out: Path, count: int = 3) -> None:
    """Writes a CSV with tables.NEIGHBORS' columns: of each target the `count` photographs of the greatest cosine.

    by_encoder: the features of the targets, and those of reference photographs (`read_references`), of which the class
    is told, if there are some. The other targets' photographs count as well. Raises FeatspaceError for files that are
    missing or damaged, and if there are not as many photographs.
    """
    photos = [target.id for target in read_targets(targets) if target.kind == "photo"]
    rows = []
    for encoder, (path, photographs) in by_encoder.items():
        features = {id: feature.flatten() for id, feature in read_features(path)[0].items()}
        shown = [id for id in photos if id in features]
        names = [(TARGET, id) for id in shown]
        known = [features[id] for id in shown]
        if photographs is not None:
            dim = len(next(iter(features.values())))
            held_out = read_references(photographs, dim)
            names += [(REFERENCE, name) for name in held_out.classes or [UNKNOWN] * len(held_out.features)]
            known += list(held_out.features)
        if len(known) <= count:
            raise FeatspaceError(f"{targets}: {len(known)} photographs, too few for {count} neighbors; add some")
        near = Nearness(torch.stack(known))
        for id, feature in features.items():
            distances, cosines = near(feature)
            first = (-cosines).argsort(stable=True)[: count + 1].tolist()  # the target itself may be among them
            order = [index for index in first if names[index] != (TARGET, id)]
            for rank, index in enumerate(order[:count]):
                numbers = distances[index].item(), cosines[index].item()
                rows.append((encoder, id, rank, *names[index], *numbers))
    write_table(pd.DataFrame(rows, columns=list(NEIGHBORS)), out)
