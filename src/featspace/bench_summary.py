"""The benchmark in a table: one row a method and budget, as CSV and as Markdown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from featspace.baselines import PUBLISHED
from featspace.bench import PASSES, Job
from featspace.files import atomic_file
from featspace.metrics import bootstrap_interval
from featspace.tables import BENCH, read_table, write_table

KEY = ["method", "evaluations", "weight"]
"""What tells one run of a method from another."""


def untuned(jobs: list[Job]) -> list[Job]:
    """The jobs of methods that have several weights."""
    methods = [job.method for job in {(job.method, job.weight): job for job in jobs}.values()]
    return [job for job in jobs if methods.count(job.method) > 1]


def tuned(jobs: list[Job], images: pd.DataFrame) -> list[Job]:
    """The jobs without those at other weights than the best, by what `images` has of the `untuned`."""
    several = untuned(jobs)
    best = set(at_best_weight(images)[KEY].itertuples(index=False, name=None)) if several else set()
    return [job for job in jobs if job not in several or (job.method, job.evaluations, job.weight) in best]


def weights_tried(images: pd.DataFrame) -> pd.DataFrame:
    """`summarize` of each weight, on what a method decoded at all of its weights."""
    budget = images.groupby(KEY[:2])["weight"].transform("nunique")
    image = images.groupby([*KEY[:2], "encoder", "id", "sample"])["weight"].transform("nunique")
    return summarize(images[image == budget])


def at_best_weight(images: pd.DataFrame) -> pd.DataFrame:
    """The rows of each method and budget at the weight that came nearest, by the median ratio of `weights_tried`.

    Once a weight was run on more images than the others it stays: decoded again in a larger batch, the images that it
    was chosen by differ by rounding.
    """
    tried = weights_tried(images).merge(images.groupby(KEY).size().rename("all"), on=KEY)
    best = tried.sort_values(["all", "ratio"], ascending=[False, True]).drop_duplicates(KEY[:2])
    return images.merge(best[KEY], on=KEY)


def summarize(images: pd.DataFrame) -> pd.DataFrame:
    """One row a method, budget and weight.

    `ratio` is the squared distance over that of the JPEG copy (quality 75), which makes encoders comparable; the
    intervals are bootstrapped over targets. `top1_agrees` is of the encoders that classify.
    """
    images = images.assign(ratio=images["distance"] / images["distance_jpeg"])
    rows = []
    for key, part in images.groupby(KEY, sort=False):
        row = dict(zip(KEY, key, strict=True)) | {
            "images": len(part),
            "nearer_than_jpeg_75": (part["ratio"] < 1).mean(),
        }
        for name, worst in (("ratio", max), ("cosine", min)):
            row |= {name: part[name].median()} | _interval(part, name, np.median)
            row |= {f"{name}_mean": part[name].mean(), f"{name}_worst": worst(part[name])}
        row |= {"judge_cosine": part["judge_cosine"].mean()} | _interval(part, "judge_cosine", np.mean)
        means = ("top1_agrees", "judge_top1_agrees", "error", "diversity", *PASSES, "seconds")
        rows.append(row | {name: part[name].mean() for name in means})
    return pd.DataFrame(rows).sort_values(["evaluations", "ratio"], ignore_index=True)


def _interval(images: pd.DataFrame, name: str, statistic: Callable[[np.ndarray], float]) -> dict[str, float]:
    groups = {id: group[name].to_numpy() for id, group in images.groupby("id")}
    return dict(zip((f"{name}_low", f"{name}_high"), bootstrap_interval(groups, statistic), strict=True))


def against_published(images: pd.DataFrame) -> pd.DataFrame:
    """How each budget of `fast` differs from the published schedule in what is not distance: one row a budget.

    Of each target and encoder that both have, the mean of `fast` over its seeds minus the published one; `judge_cosine`
    and `error` are means of these pairs, `_low` and `_high` their 95 % intervals, bootstrapped over pairs.
    """
    pair, names = ["encoder", "id"], ["judge_cosine", "error"]
    published = images[(images["method"] == "paper") & (images["evaluations"] == PUBLISHED)].groupby(pair)[names].mean()
    rows = []
    for evaluations, part in images[images["method"] == "fast"].groupby("evaluations"):
        apart = (part.groupby(pair)[names].mean() - published).dropna()
        if len(apart):
            row = {"evaluations": evaluations, "pairs": len(apart)}
            for name in names:
                ends = bootstrap_interval({key: [value] for key, value in apart[name].items()}, np.mean)
                row |= {name: apart[name].mean()} | dict(zip((f"{name}_low", f"{name}_high"), ends, strict=True))
            rows.append(row)
    return pd.DataFrame(rows)


def run_bench_summary(out: Path) -> pd.DataFrame:
    """Writes <out>/bench.csv (at the best weights) and <out>/tuning.csv (at each) from <out>/images.csv."""
    images = read_table(Path(out) / "images.csv", BENCH)
    write_table(weights_tried(images), Path(out) / "tuning.csv")
    images = at_best_weight(images)
    table = summarize(images)
    write_table(table, Path(out) / "bench.csv")
    with atomic_file(Path(out) / "README.md") as file:
        file.write_text(describe(table, images), encoding="utf-8")
    return table


def describe(table: pd.DataFrame, images: pd.DataFrame) -> str:
    """The tuned table as Markdown, with what its numbers were measured on."""
    per = images.groupby("encoder")["id"].nunique()
    head = (
        "| method | evaluations | w | images | ratio, median [95 %] | worst | nearer than JPEG 75 | judge | error | s |"
    )
    lines = [
        "# Methods compared",
        "",
        f"`featspace bench` on {per.max()} photographs × {len(per)} encoders × {images['sample'].nunique()} sample(s),",
        f"fewer where `images` says so; {'; '.join(sorted(images['device'].unique()))}.",
        "Everything is measured from the saved PNGs. Ratio: squared",
        "distance over that of the target's own JPEG copy of quality 75. Judge: mean cosine of an encoder that took no",
        "part. Error: the prior's denoising error over that of real photographs (1 is as natural as they are). s:",
        "seconds an image, roughly: runs may share a machine. w: the weight that came nearest, of those tried",
        "on the first photographs (`tuning.csv`).",
        "",
        "What `fast` is was chosen in some hundred and seventy trial runs: step lengths and new noise with a look at",
        "the default profile's own photographs, the rest on 32 held-out ones alone. Other methods had three weights,",
        "the published schedule its own.",
        "",
        head,
        "|" + " --- |" * (head.count("|") - 1),
    ]
    for row in table.itertuples():
        lines.append(
            f"| {row.method} | {row.evaluations:,} | {row.weight:g} | {row.images} | "
            f"{row.ratio:.2f} [{row.ratio_low:.2f}, {row.ratio_high:.2f}] | {row.ratio_worst:.3g} | "
            f"{row.nearer_than_jpeg_75:.0%} | {row.judge_cosine:.3f} | {row.error:.2f} | {row.seconds:.1f} |"
        )
    apart = against_published(images)
    if len(apart):
        lines += [
            "",
            "`fast` minus the published schedule, mean over the pairs of target and encoder that both have, `fast`",
        ]
        lines += ["averaged over its seeds, with 95 % intervals bootstrapped over pairs:", ""]
        lines += ["| evaluations | pairs | judge | error |", "| --- | --- | --- | --- |"]
        for row in apart.itertuples():
            lines.append(
                f"| {row.evaluations} | {row.pairs} | "
                f"{row.judge_cosine:+.3f} [{row.judge_cosine_low:+.3f}, {row.judge_cosine_high:+.3f}] | "
                f"{row.error:+.3f} [{row.error_low:+.3f}, {row.error_high:+.3f}] |"
            )
    if PUBLISHED not in set(table["evaluations"]):
        lines += ["", f"The published {PUBLISHED:,} evaluations are not among them: the same command with"]
        lines += [f"`--only paper --budget {PUBLISHED}` adds them."]
    return "\n".join(lines) + "\n"
