"""The paper's claims against made-up tables: each verdict where the numbers leave no other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from featspace.stages.claims import run_claims
from featspace.utils.tables import ABLATION, AGREEMENT, CLAIMS, SIMILARITY, read_table

IDS = [f"photo{index}" for index in range(8)]


def claims(folder: Path, cosines: list[float], with_target: list[float], base: list[float]) -> pd.DataFrame:
    """The table of claims: a cosine, an attribute's value and the base's distance (of 1 without emphasis) a target."""
    similarity = [
        ("net", id, 0, "photo", "best", 1, cosine, 0.5, 1, 1) for id, cosine in zip(IDS, cosines, strict=True)
    ]
    pd.DataFrame(similarity, columns=list(SIMILARITY)).to_csv(folder / "similarity.csv", index=False)
    rows = []
    for id, value in zip(IDS, with_target, strict=True):
        rows.append(("net", id, 0, "target", *[value] * 5))
        rows.append(("net", id, 0, "chance", *[0.5] * 5))
    pd.DataFrame(rows, columns=list(AGREEMENT)).to_csv(folder / "agreement.csv", index=False)
    ablation = []
    for id, distance in zip(IDS, base, strict=True):
        ablation.append(("base", "", "base", id, 0, 4, distance, 1, 0.9, 0.5))
        ablation.append(("no_emphasis", "emphasis_steps 0", "schedule", id, 0, 4, 1, 1 / distance, 0.9, 0.5))
    pd.DataFrame(ablation, columns=list(ABLATION)).to_csv(folder / "ablation.csv", index=False)
    paths = [folder / name for name in ("agreement.csv", "ablation.csv", "claims.csv")]
    run_claims([folder / "similarity.csv"], *paths, resamples=200)
    return read_table(paths[-1], CLAIMS)


def test_clear_numbers_support_or_contradict_and_mixed_ones_decide_nothing(tmp_path: Path) -> None:
    spread = np.linspace(0, 0.01, 8)
    good = claims(tmp_path, list(0.95 + spread), list(0.7 + spread), list(0.9 + spread)).set_index("claim")["verdict"]
    bad = claims(tmp_path, list(0.85 + spread), list(0.3 + spread), list(1.1 + spread)).set_index("claim")["verdict"]
    signs = np.resize([1, -1], 8) * (0.01 + spread)
    mixed = claims(tmp_path, list(0.92 + signs), list(0.5 + signs), list(1 + signs)).set_index("claim")["verdict"]
    color = "decoded images have the target’s color"  # a difference: less is more alike
    opposite = {"supported": "contradicted", "contradicted": "supported"}
    for table, verdict in ((good, "supported"), (bad, "contradicted"), (mixed, "undecided")):
        assert table.pop(color) == opposite.get(verdict, verdict)
        assert set(table) == {verdict}, table


def test_numbers_are_the_effect_its_interval_and_the_test(tmp_path: Path) -> None:
    base = [0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99]
    table = claims(tmp_path, [0.95] * 8, [0.7] * 8, base).set_index("claim")
    row = table.loc["early-step emphasis lowers the distance"]
    assert row["measured"] == pytest.approx(100 * (np.median(base) - 1))
    assert row["low"] < row["measured"] < row["high"] < row["idle"] == 0
    assert row["p"] == pytest.approx(2 / 2**8)  # all eight of one sign
    assert row["targets"] == row["images"] == 8 and row["published"] == "−5.2 %"
    share = table.loc["… by a cosine above 0.92"]
    assert share["measured"] == share["low"] == share["high"] == 100
