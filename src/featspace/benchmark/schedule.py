"""How long many encoders and targets take on many GPUs: a simulation of the jobs that a scheduler runs."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from featspace.utils.errors import UsageError
from featspace.utils.tables import write_table

NODE = 8
"""GPUs of a node, which are lost together."""
GPUS = (64, 256, 1024, 4096)
SHARDS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
"""Of an encoder's targets, each one job."""
CASES = ("even", "stragglers", "node lost")
"""Each brings what those before it bring: jobs of equal length; lognormal ones; and a node lost halfway."""


@dataclass(frozen=True)
class Workload:
    """What is to be decoded, and how jobs behave."""

    encoders: int = 1000
    targets: int = 50_000  # of each encoder, decoded once
    seconds: float = 8.2  # of a GPU, for an image
    spread: float = 0.3  # standard deviation of the logarithm of a job's duration
    latency: float = 90.0  # seconds before a job decodes: the scheduler, imports, loading networks
    seed: int = 0

    @property
    def gpu_hours(self) -> float:
        return self.encoders * self.targets * self.seconds / 3600

    def durations(self, shards: int, spread: float, seed: int) -> np.ndarray:
        """Hours of each job, without its latency: of mean one share of the work, lognormal if `spread` is above 0."""
        jobs = self.encoders * shards
        factors = np.exp(np.random.default_rng(seed).normal(-(spread**2) / 2, spread, jobs))
        return self.gpu_hours / jobs * factors


def makespan(
    durations: Sequence[float] | np.ndarray, gpus: int, latency: float = 0.0, lost_at: float | None = None
) -> float:
    """Hours until the last job ends, where each free GPU takes the next job in order.

    durations, latency (before each job), lost_at: in hours. At `lost_at` the first NODE GPUs are lost for good; what
    ran there is run again, whole, after all others. Raises UsageError where no GPU is left for it.
    """
    if gpus < 1 or (lost_at is not None and gpus <= NODE):
        raise UsageError(f"{gpus} GPUs: it must be at least one, and more than a node's {NODE} where one is lost")
    waiting, end = deque(float(duration) for duration in durations), 0.0
    free = [(0.0, gpu) for gpu in range(gpus)]  # a heap: when each GPU is free
    while waiting:
        now, gpu = heapq.heappop(free)
        if lost_at is not None and gpu < NODE and now >= lost_at:
            continue  # idle when it was lost, or never free again
        duration = waiting.popleft()
        done = now + latency + duration
        if lost_at is not None and gpu < NODE and done > lost_at:
            waiting.append(duration)
            continue
        end = max(end, done)
        heapq.heappush(free, (done, gpu))
    return end


def run_schedule(workload: Workload, out: Path, repeats: int = 5) -> pd.DataFrame:
    """Writes a CSV: a row a case, number of GPUs and of shards, with the median, least and most days of `repeats` runs.

    `ideal_days` is the work over the GPUs, without latency; `jobs_a_minute` what the scheduler starts. Raises
    UsageError for what is not positive.
    """
    if min(workload.encoders, workload.targets, repeats) < 1 or workload.seconds <= 0:
        raise UsageError("encoders, targets, seconds and repeats must be positive: name what is to be decoded")
    rows = []
    for gpus in GPUS:
        ideal = workload.gpu_hours / gpus
        for shards in (count for count in SHARDS if count <= workload.targets):
            for case in CASES:
                spread, lost_at = 0.0 if case == "even" else workload.spread, ideal / 2 if case == "node lost" else None
                seeds = range(workload.seed, workload.seed + (1 if case == "even" else repeats))
                hours = [
                    makespan(workload.durations(shards, spread, seed), gpus, workload.latency / 3600, lost_at)
                    for seed in seeds
                ]
                jobs = workload.encoders * shards
                days = [statistic(hours) / 24 for statistic in (np.median, np.min, np.max)]
                rows.append((case, gpus, shards, jobs, *days, ideal / 24, jobs / (days[0] * 1440)))
    columns = ["case", "gpus", "shards", "jobs", "days", "low", "high", "ideal_days", "jobs_a_minute"]
    table = pd.DataFrame(rows, columns=columns)
    write_table(table, out)
    return table
