"""What many targets take: every stage on its own, its time, its memory, and the page that comes of them."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO

import pandas as pd
from ruamel.yaml import YAML

from featspace.utils.errors import FeatspaceError, one_line
from featspace.utils.tables import write_table

PHOTOGRAPHS = {  # of scikit-image, and their sides in pixels: targets are random square crops of these
    "astronaut": (512, 512),
    "chelsea": (451, 300),
    "coffee": (600, 400),
    "rocket": (640, 427),
    "motorcycle_left": (741, 497),
    "retina": (1411, 1411),
    "ihc": (512, 512),
}
SIDE = 100
"""Pixels of a crop, at least."""
BROWSERS = ("chromium", "google-chrome")
PROFILE = "load"


def run_load(
    root: Path, counts: Sequence[int], out: Path, evaluations: int = 2, last: str | None = None
) -> pd.DataFrame:
    """Runs the stages on each number of targets, in a folder that is removed; writes a CSV table.

    Targets are random crops of photographs, decoded once with the small prior and the small ViT of `root`/data/models,
    in so few guided evaluations that the images are noise; none is kept. A row a number of targets and step: seconds by
    the clock and of the processor, starting Python included; of the latter those that each target beyond the first
    number adds; peak of resident memory in MiB; files and MB that were written. The step `open` is the page in a
    browser, if there is one, with the number of its elements. `last`: the step after which to stop. Raises
    FeatspaceError for a step that fails, with what it said.
    """
    rows = []
    for count in counts:
        with TemporaryDirectory(prefix="featspace-") as name:
            folder = Path(name)
            YAML(typ="safe").dump(_params(root.resolve(), count, evaluations), folder / "params.yaml")
            for step, command, made in _steps(folder):
                seconds, cpu, mib, elements = _measured(command, folder)
                written = [path for place in made for path in _files(folder / place)]
                rows.append(
                    {
                        "targets": count,
                        "step": step,
                        "seconds": seconds,
                        "cpu_seconds": cpu,
                        "peak_mib": mib,
                        "mb": sum(path.stat().st_size for path in written) / 1e6,
                        "files": len(written),
                        "elements": elements,
                    }
                )
                print(f"{count} targets, {step}: {seconds:.1f} s, {mib:.0f} MiB", file=sys.stderr)
                if step == last:
                    break
    table = pd.DataFrame(rows).astype({"elements": "Int64"})
    first = table[table["targets"] == counts[0]].set_index("step")["cpu_seconds"]
    further = (table["targets"] - counts[0]).replace(0, float("nan"))
    table.insert(4, "cpu_a_target", (table["cpu_seconds"] - table["step"].map(first)) / further)
    write_table(table, out)
    return table


def _params(root: Path, count: int, evaluations: int) -> dict:
    random_numbers, photos = random.Random(0), {}
    for number in range(count):
        name = list(PHOTOGRAPHS)[number % len(PHOTOGRAPHS)]
        width, height = PHOTOGRAPHS[name]
        side = random_numbers.randint(SIDE, min(width, height))
        corner = [random_numbers.randint(0, width - side), random_numbers.randint(0, height - side)]
        photos[f"{name}_{number:05d}"] = {"image": f"skimage:{name}", "crop": [*corner, side]}
    models = root / "data/models"
    profile = {
        "prior": str(models / "prior"),
        "resolution": 64,
        "encoders": {"vit": {"network": str(models / "vit"), "clip_std": 2.0}},
        "judge": str(models / "clip"),
        "decode": {"preset": "fast", "evaluations": evaluations, "samples": 1, "batch": 8, "device": "cpu"},
        "photos": photos,
    }
    return {"seed": 0, PROFILE: profile}


def _steps(folder: Path) -> list[tuple[str, list[str], list[str]]]:
    """Of each step its name, its command, and what it writes."""
    data, figures = f"data/{PROFILE}", f"figures/{PROFILE}"
    targets, features, decoded = f"{data}/targets", f"{data}/features/vit.safetensors", f"{data}/decoded/vit"
    similarity, references = f"{figures}/similarity-vit.csv", f"{figures}/references-vit.csv"
    of, agreed = ["--encoder", "vit", "--targets", targets], f"{figures}/agreement-summary.csv"
    decoding = ["--targets", targets, "--decoded", decoded]
    only = [argument for name in ("3", "4", "A1") for argument in ("--only", name)]
    commands = {
        "fetch": (["--out", f"{data}/weights.json"], []),
        "targets": (["--out", targets], [targets]),
        "features": ([*of, "--out", features], [features]),
        "decode": ([features, "--encoder", "vit", "--out", decoded], [decoded]),
        "references": ([*of, "--features", features, "--out", references], [references]),
        "similarity": ([*of, "--features", features, "--decoded", decoded, "--out", similarity], [similarity]),
        "neighbors": (
            ["--targets", targets, "--features", features, "--out", f"{figures}/neighbors.csv"],
            [f"{figures}/neighbors.csv"],
        ),
        "agreement": ([*decoding, "--out", f"{figures}/agreement.csv", "--summary", agreed], [agreed]),
        "traces": (
            ["--decoded", decoded, "--references", references, "--out", f"{figures}/traces.csv"],
            [f"{figures}/traces.csv"],
        ),
        "metrics": (
            ["--similarity", similarity, "--references", references, "--out", f"{figures}/metrics.json"],
            [f"{figures}/metrics.json"],
        ),
        "figures": (only, [f"{figures}/figure{name}.png" for name in ("3", "4", "A1")]),
        "report": ([], [f"{figures}/report.html"]),
    }
    program = [sys.executable, "-c", "from featspace.cli import main; main()"]
    steps = [
        (name, [*program, name, *arguments, "--profile", PROFILE], made) for name, (arguments, made) in commands.items()
    ]
    if browser := next(filter(None, map(shutil.which, BROWSERS)), None):
        page = (folder / figures / "report.html").as_uri()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'browser'}"]
        steps.append(("open", [browser, *flags, "--dump-dom", page], []))
    return steps


def _measured(command: list[str], folder: Path) -> tuple[float, float, float, int | None]:
    """Seconds, the processor's, peak MiB of the process, and of a page that it printed the number of elements."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with TemporaryFile() as out, TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        seconds, process.returncode = time.perf_counter() - start, os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise FeatspaceError(f"{' '.join(command[2:5])} … failed: {one_line(_text(said)[-300:], 300)}")
        unit = 1 if sys.platform == "darwin" else 1024
        page = _text(out)
        elements = page.count("</") if page.startswith("<!DOCTYPE html>") else None
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 2**20, elements


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _files(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
