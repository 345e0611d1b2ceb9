"""The speed of guided decoding: the official implementation's way beside ours, an encoder a panel."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from featspace.figures.style import DPI, GRAY, INK, WIDTH, save, style
from featspace.utils.tables import SPEED, read_table

COLORS = {"official": "#b9b4aa", "featspace": "#33658a"}


def run_speed_figure(table: Path, out: Path) -> None:
    """Writes <out>.png and <out>.pdf of the table of `run_speed`. Raises FeatspaceError if it cannot be read."""
    with style():
        save(draw(table), out)


def draw(path: Path) -> Figure:
    """Bars of the time of one guided evaluation of one image, in milliseconds, from the table of `run_speed`."""
    table = read_table(path, SPEED)
    encoders = table["encoder"].unique()
    rows = table.groupby("encoder").size().max()
    figure = Figure(figsize=(WIDTH / DPI, 0.9 + 0.2 * rows), layout="constrained")
    for axes, encoder in zip(figure.subplots(1, len(encoders), squeeze=False)[0], encoders, strict=True):
        own = table[table["encoder"] == encoder].iloc[::-1]
        labels = [f"{row.way}, batch {row.batch}" for row in own.itertuples()]
        axes.barh(labels, own["ms"].fillna(0), color=[COLORS[way] for way in own["way"]], height=0.7)
        for y, row in enumerate(own.itertuples()):
            text = "out of memory" if row.ms != row.ms else f"{row.ms:.3g} ms ({row.faster:.1f}×)"
            axes.annotate(text, (0 if row.ms != row.ms else row.ms, y), (3, 0), textcoords="offset points", va="center")
        if axes is not figure.axes[0]:
            axes.set_yticks([])
        axes.set_title(encoder, color=INK, fontsize=8)
        axes.set_xlim(0, 1.45 * own["ms"].max())
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.set_xticks([])
        axes.tick_params(axis="y", length=0)
    first = table.iloc[0]
    note = f"One guided evaluation of one image, {first.prior}, on {first.device}, PyTorch {first.torch}."
    figure.supxlabel(note, color=GRAY, fontsize=7.5)
    return figure
