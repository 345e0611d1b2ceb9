"""The benchmark in tables: how the methods compare, what each weight gave, what `fast` gives for its budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from featspace.metrics.bootstrap import bootstrap_interval
from featspace.utils.files import atomic_file
from featspace.utils.tables import BENCH, read_table, write_table

KEY = ["encoder", "method", "evaluations", "weight"]
"""What tells one run of a method from another."""
MEANS = ("cosine", "judge_cosine", "judge_top1", "judge_top5", "error")


def run_bench_summary(results: Sequence[Path], out: Path) -> None:
    """Writes tables of the folders that `run_bench` wrote, one an encoder, into the folder `out`.

    images.csv: every image. bench.csv and bench.md: `compare`. tuning.csv: `tried`, what each weight gave. curve.csv:
    `fast` at each budget, on all of its images.
    """
    images = pd.concat([read_table(folder / "images.csv", BENCH) for folder in results], ignore_index=True)
    table, out = compare(images), Path(out)
    write_table(images, out / "images.csv")
    write_table(table, out / "bench.csv")
    write_table(tried(images), out / "tuning.csv")
    write_table(summarize(images[images["method"] == "fast"]), out / "curve.csv")
    with atomic_file(out / "bench.md") as file:
        file.write_text(describe(table, images), encoding="utf-8")


def tried(images: pd.DataFrame) -> pd.DataFrame:
    """`summarize` of each weight, on the images that a method decoded at all of its weights, where it has several."""
    run = ["encoder", "method", "evaluations"]
    several = images.groupby(run)["weight"].transform("nunique")
    each = images.groupby([*run, "id", "sample"])["weight"].transform("nunique")
    return summarize(images[(several > 1) & (each == several)])


def chosen_weights(images: pd.DataFrame) -> dict[str, float]:
    """Of one encoder at one budget: each method's weight of the greatest median cosine (of two equal the smaller).

    The cosine is that of the saved PNG's feature. A method that was run at one weight has that one.
    """
    weights = {method: part["weight"].min() for method, part in images.groupby("method")}
    table = tried(images)
    if len(table):
        best = table.sort_values(["cosine_median", "weight"], ascending=[False, True]).drop_duplicates("method")
        weights |= dict(zip(best["method"], best["weight"], strict=True))
    return weights


def compare(images: pd.DataFrame) -> pd.DataFrame:
    """`summarize` of each encoder's methods at their chosen weights, on the images that all of them decoded.

    The budget is that of most methods; the autoencoder has none. `weights` lists what was tried, `tuned_on` says on
    which encoder.
    """
    tables = []
    for _, own in images.groupby("encoder", sort=False):
        budget = own.loc[own["evaluations"] > 0].groupby("evaluations")["method"].nunique().idxmax()
        own = own[own["evaluations"].isin([0, budget])]
        weights = own.groupby("method", sort=False)["weight"].unique()
        own = own[own["weight"] == own["method"].map(chosen_weights(own))]
        methods = own.groupby(["id", "sample"])["method"].transform("nunique")
        table = summarize(own[methods == own["method"].nunique()])
        listed = [" ".join(f"{weight:g}" for weight in weights[method] if weight) for method in table["method"]]
        table.insert(4, "weights", listed)
        table.insert(5, "tuned_on", own["tuned_on"].iloc[0])
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def summarize(images: pd.DataFrame) -> pd.DataFrame:
    """One row an encoder, method, budget and weight: counts, medians, the worst cosine, and means.

    `_low` and `_high` are the ends of a 95 % interval, bootstrapped over photographs, which bring their samples along.
    """
    rows = []
    for key, part in images.groupby(KEY, sort=False):
        row = dict(zip(KEY, key, strict=True)) | {"photographs": part["id"].nunique(), "images": len(part)}
        row |= {"cosine_median": part["cosine"].median(), "cosine_worst": part["cosine"].min()}
        row |= {"distance_median": part["distance"].median(), "ratio_median": part["ratio"].median()}
        for name in MEANS:
            groups = {id: group.dropna().to_numpy() for id, group in part.groupby("id")[name]}
            ends = bootstrap_interval(groups, np.mean) if part[name].notna().all() else (np.nan, np.nan)
            row |= {f"{name}_mean": part[name].mean(), f"{name}_low": ends[0], f"{name}_high": ends[1]}
        rows.append(row | {"seconds": part["seconds"].mean()})
    return pd.DataFrame(rows)


def describe(table: pd.DataFrame, images: pd.DataFrame) -> str:
    """`compare`'s table as Markdown, with what its numbers mean and were measured on."""
    head = (
        "| method | evaluations | w | of | photographs × images | cosine, median | worst | mean [95 %] | ratio, median "
        "| judge's cosine [95 %] | judge's top-1 | top-5 | denoising error [95 %] | s |"
    )
    lines = [
        "Measured from the saved PNGs. Cosine and ratio: of the encoder's feature to the target's; the ratio is the",
        "squared distance over that of the target's own JPEG copy of quality 75. Judge: a network that took no part;",
        "top-1: it sees the photograph's class, top-5: among its five likeliest. Denoising error: the prior's, over",
        "that of photographs: above 1 is less natural, far below 1 too smooth. s: seconds an image, roughly, as runs",
        "may share a machine. w: of the weights listed, the one of the greatest median cosine on the images of",
        "`tuning.csv`. Intervals are bootstrapped over photographs.",
        f"On {'; '.join(sorted(images['device'].unique()))}.",
    ]
    for encoder, part in table.groupby("encoder", sort=False):
        tuned_on = part["tuned_on"].iloc[0]
        where = "" if tuned_on == encoder else f" (weights chosen on {tuned_on})"
        lines += ["", f"## {encoder}{where}", "", head, "|" + " --- |" * (head.count("|") - 1)]
        for row in part.sort_values("cosine_median", ascending=False).itertuples():
            w, listed = (f"{row.weight:g}", row.weights) if row.weights else ("", "")
            lines.append(
                f"| {row.method} | {row.evaluations} | {w} | {listed} | {row.photographs} × {row.images} | "
                f"{row.cosine_median:.3f} | {row.cosine_worst:.3f} | {_mean(row, 'cosine')} | {row.ratio_median:.3g} | "
                f"{_mean(row, 'judge_cosine')} | {_share(row.judge_top1_mean)} | {_share(row.judge_top5_mean)} | "
                f"{_mean(row, 'error')} | {row.seconds:.1f} |"
            )
    return "\n".join(lines) + "\n"


def _mean(row, name: str) -> str:
    mean, low, high = (getattr(row, f"{name}_{end}") for end in ("mean", "low", "high"))
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _share(value: float) -> str:
    return "–" if value != value else f"{value:.0%}"
