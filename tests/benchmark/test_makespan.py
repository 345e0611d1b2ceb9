"""The simulated schedule: bounds that hold for any, and cases in closed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from featspace.benchmark import schedule
from featspace.benchmark.schedule import NODE, Workload, makespan
from featspace.cli import main
from featspace.utils.errors import UsageError

SEEDS = range(20)


def drawn(seed: int) -> tuple[np.ndarray, int, float]:
    """Durations, GPUs and a latency."""
    rng = np.random.default_rng(seed)
    return rng.lognormal(0, 0.7, rng.integers(1, 200)), int(rng.integers(NODE + 1, 40)), float(rng.uniform(0, 0.2))


@pytest.mark.parametrize("seed", SEEDS)
def test_it_takes_no_less_than_the_work_shared_out_and_no_less_than_the_longest_job(seed: int) -> None:
    durations, gpus, latency = drawn(seed)
    hours = makespan(durations, gpus, latency)
    total, longest = (durations + latency).sum(), (durations + latency).max()
    assert hours >= max(total / gpus, longest) * (1 - 1e-12)
    assert hours <= total / gpus + longest  # Graham 1969
    assert hours == makespan(durations, gpus, latency)


@pytest.mark.parametrize("shards", [4, 8, 40])
def test_equal_jobs_that_divide_are_exact(shards: int) -> None:
    workload = Workload(encoders=30, targets=80, seconds=36.0)
    assert workload.gpu_hours == 24
    durations = workload.durations(shards, 0.0, 0)
    assert makespan(durations, 24, 0.5) == pytest.approx(24 / 24 + 0.5 * 30 * shards / 24)
    assert makespan(durations, 1) == pytest.approx(24) and len(durations) == 30 * shards


@pytest.mark.parametrize("seed", SEEDS)
def test_losing_a_node_never_shortens(seed: int) -> None:
    durations, gpus, latency = drawn(seed)
    whole = makespan(durations, gpus, latency)
    for share in (0, 0.1, 0.5, 0.9, 1.1):
        assert makespan(durations, gpus, latency, whole * share) >= whole - 1e-12
    assert makespan(durations, gpus, latency, 0.0) == makespan(durations, gpus - NODE, latency)
    assert makespan(durations, gpus, latency, 1.1 * whole) == whole


def test_what_ran_on_a_lost_node_is_run_again_whole() -> None:
    assert makespan([4.0] * (NODE + 1), NODE + 1, lost_at=3.0) == 4 * (NODE + 1)  # eight more on the one that is left
    assert makespan([4.0] * (NODE + 1), NODE + 1, lost_at=4.0) == 4


def test_lognormal_jobs_have_the_mean_of_the_work() -> None:
    workload = Workload(encoders=100, targets=1000)
    durations = workload.durations(100, 0.5, 3)
    assert durations.sum() == pytest.approx(workload.gpu_hours, rel=0.03)
    assert np.log(durations).std() == pytest.approx(0.5, rel=0.03)
    assert not np.array_equal(durations, workload.durations(100, 0.5, 4))


def test_too_few_gpus_are_refused() -> None:
    with pytest.raises(UsageError, match="8 GPUs"):
        makespan([1.0], NODE, lost_at=0.5)
    with pytest.raises(UsageError, match="0 GPUs"):
        makespan([1.0], 0)


def test_the_command_writes_the_table_and_draws_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "SHARDS", (1, 10, 100))
    main(["bench", "scale", "--encoders", "20", "--targets", "1000", "--out", str(tmp_path / "scale")])
    table = pd.read_csv(tmp_path / "scale.csv")
    assert len(table) == len(schedule.GPUS) * 3 * len(schedule.CASES)
    assert (table["days"] >= 0.99 * table["ideal_days"]).all() and (table["low"] <= table["high"]).all()
    assert Image.open(tmp_path / "scale.png").width > 4000 and (tmp_path / "scale.pdf").is_file()
    first = (tmp_path / "scale.csv").read_bytes()
    main(["bench", "scale", "--encoders", "20", "--targets", "1000", "--out", str(tmp_path / "scale.csv")])
    assert (tmp_path / "scale.csv").read_bytes() == first
    assert {path.name for path in tmp_path.iterdir()} == {"scale.csv", "scale.png", "scale.pdf"}
