"""The measurement of many targets: what it runs, and that a step which fails says why."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from featspace.benchmark.load import run_load
from featspace.utils.errors import FeatspaceError

PROJECT = Path(__file__).parents[2]


def test_a_row_a_step_and_number_of_targets(tmp_path: Path) -> None:
    run_load(PROJECT, [2, 5], tmp_path / "load.csv", last="targets")
    table = pd.read_csv(tmp_path / "load.csv").set_index(["step", "targets"])
    assert list(table.index) == [(step, count) for count in (2, 5) for step in ("fetch", "targets")]
    assert (table["cpu_seconds"] > 0).all() and (table["peak_mib"] > 50).all()
    assert table.loc["targets", "files"].to_dict() == {2: 3, 5: 6}
    added = table.loc[("targets", 5), "cpu_seconds"] - table.loc[("targets", 2), "cpu_seconds"]
    assert table.loc[("targets", 5), "cpu_a_target"] == pytest.approx(added / 3, abs=0.01)
    assert table.loc[("targets", 2)].isna()["cpu_a_target"]


def test_a_step_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(FeatspaceError, match="fetch .* failed: .*data/models"):
        run_load(tmp_path, [2], tmp_path / "load.csv")
    assert not (tmp_path / "load.csv").exists()
