"""The benchmark in a table: one row a method and budget, as CSV and as Markdown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from featspace.baselines import PUBLISHED
from featspace.bench import PASSES
from featspace.files import atomic_file
from featspace.metrics import bootstrap_interval
from featspace.tables import BENCH, read_table, write_table


def summarize(images: pd.DataFrame, tuned: bool = True) -> pd.DataFrame:
    """One row a method and budget, at the weight that comes nearest (`tuned`), or a row each weight.

    `ratio` is the squared distance over that of the JPEG copy (quality 75), which makes encoders comparable; the
    intervals are bootstrapped over targets.
    """
    images = images.assign(ratio=images["distance"] / images["distance_jpeg"])
    rows = []
    for key, part in images.groupby(["method", "evaluations", "weight"], sort=False):
        groups = {id: group["ratio"].to_numpy() for id, group in part.groupby("id")}
        low, high = bootstrap_interval(groups)
        judged = {id: group["judge_cosine"].to_numpy() for id, group in part.groupby("id")}
        judge_low, judge_high = bootstrap_interval(judged, np.mean)
        rows.append(
            dict(zip(["method", "evaluations", "weight"], key, strict=True))
            | {"images": len(part), "ratio": part["ratio"].median(), "ratio_low": low, "ratio_high": high}
            | {"ratio_mean": part["ratio"].mean(), "ratio_worst": part["ratio"].max()}
            | {"nearer_than_jpeg_75": (part["ratio"] < 1).mean(), "cosine": part["cosine"].median()}
            | {"judge_cosine": part["judge_cosine"].mean(), "judge_low": judge_low, "judge_high": judge_high}
            | {"judge_top1_agrees": part["judge_top1_agrees"].mean(), "error": part["error"].mean()}
            | {"diversity": part["diversity"].mean()}
            | {key: part[key].mean() for key in (*PASSES, "seconds")}
        )
    table = pd.DataFrame(rows)
    if tuned:
        table = table.loc[table.groupby(["method", "evaluations"], sort=False)["ratio"].idxmin()]
    return table.sort_values(["evaluations", "ratio"], ignore_index=True)


def run_bench_summary(out: Path) -> pd.DataFrame:
    """Writes <out>/bench.csv (tuned) and <out>/tuning.csv (each weight) from <out>/images.csv."""
    images = read_table(Path(out) / "images.csv", BENCH)
    write_table(summarize(images, tuned=False), Path(out) / "tuning.csv")
    table = summarize(images)
    write_table(table, Path(out) / "bench.csv")
    with atomic_file(Path(out) / "README.md") as file:
        file.write_text(describe(table, images), encoding="utf-8")
    return table


def describe(table: pd.DataFrame, images: pd.DataFrame) -> str:
    """The tuned table as Markdown, with what its numbers were measured on."""
    per = images.groupby("encoder")["id"].nunique()
    head = "| method | evaluations | w | ratio, median [95 %] | worst | nearer than JPEG 75 | judge | error | s |"
    lines = [
        "# Methods compared",
        "",
        f"`featspace bench` on {per.max()} photographs × {len(per)} encoders × {images['sample'].nunique()} sample(s),",
        f"{', '.join(sorted(images['device'].unique()))}. Everything is measured from the saved PNGs. Ratio: squared",
        "distance over that of the target's own JPEG copy of quality 75. Judge: mean cosine of an encoder that took no",
        "part. Error: the prior's denoising error over that of real photographs (1 is as natural as they are). s:",
        "seconds an image. Each method at the weight w, of those tried (`tuning.csv`), that came nearest.",
        "",
        "The constants of `fast` were chosen in some hundred and forty trial runs: step lengths on the default",
        "profile's own photographs and seed, the rest on 16 held-out ones. Other methods had one to three weights.",
        "",
        head,
        "|" + " --- |" * (head.count("|") - 1),
    ]
    for row in table.itertuples():
        lines.append(
            f"| {row.method} | {row.evaluations:,} | {row.weight:g} | {row.ratio:.2f} [{row.ratio_low:.2f}, "
            f"{row.ratio_high:.2f}] | {row.ratio_worst:.3g} | {row.nearer_than_jpeg_75:.0%} | {row.judge_cosine:.3f} | "
            f"{row.error:.2f} | {row.seconds:.1f} |"
        )
    if PUBLISHED not in set(table["evaluations"]):
        lines += ["", f"The published {PUBLISHED:,} evaluations are not among them: the same command with"]
        lines += [f"`--only paper --budget {PUBLISHED}` adds them."]
    return "\n".join(lines) + "\n"
