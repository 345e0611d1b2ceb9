"""The benchmark's two plots: distance against evaluations, and naturalness against distance."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from featspace.plotting import GRAY, save, style
from featspace.tables import read_table

COLUMNS = {"method": str, "evaluations": int, "weight": float, "ratio": float, "error": float}


def run_bench_figure(table: Path, out: Path) -> None:
    """Draws <out>.png and <out>.pdf from the table that `bench_summary.run_bench_summary` wrote."""
    rows = read_table(table, COLUMNS)
    with style():
        figure = Figure(figsize=(7, 3), layout="constrained")
        left, right = figure.subplots(1, 2)
        for number, (method, part) in enumerate(rows.groupby("method", sort=True)):
            _draw(left, part.sort_values("evaluations"), "evaluations", "ratio", number, method)
            _draw(right, part.sort_values("evaluations"), "ratio", "error", number, method)
        for axes, x, y in ((left, "guided evaluations", "distance"), (right, "distance", "denoising error")):
            axes.set(xlabel=x, ylabel=y, xscale="log", yscale="log")
            for axis in (axes.xaxis, axes.yaxis):  # the page's style has no math, so no powers of ten
                axis.set_major_formatter(lambda value, _: f"{value:g}")
                axis.set_minor_formatter(NullFormatter())
            axes.axhline(1, color=GRAY, linewidth=0.5, linestyle=":")
        right.set_yscale("linear")
        right.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        right.axvline(1, color=GRAY, linewidth=0.5, linestyle=":")
        left.set_title("distance over that of a JPEG copy", fontsize=7.5, color=GRAY)
        right.set_title("denoising error over that of photographs", fontsize=7.5, color=GRAY)
        left.legend(frameon=False, fontsize=6)
        save(figure, out)


def _draw(axes, part: pd.DataFrame, x: str, y: str, number: int, label: str) -> None:
    axes.plot(part[x], part[y], color=f"C{number}", marker="o", markersize=3, linewidth=0.8, label=label)
