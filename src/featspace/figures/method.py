"""Figure 2: the method, seen along one decoding: the estimated clean image, and its distance at each evaluation."""

from __future__ import annotations

import textwrap

import pandas as pd
from matplotlib.figure import Figure

from featspace.figures.source import Source
from featspace.figures.style import DPI, GAP, GRAY, INK, LINE, MARGIN, WIDTH, Box, axes_at, frame, write
from featspace.utils.errors import FeatspaceError
from featspace.utils.images import read_image
from featspace.utils.tables import SIMILARITY, read_table

PLOT = 780
"""Dots, the height of the plot."""
AXIS = 330
"""Dots left of the plot, for its labels."""


def draw(source: Source, encoder: str) -> Figure:
    """The photograph, x̂ at eight evaluations and the nearest image; below them ‖f(x̂) − f*‖² at all evaluations.

    Of the encoder's images of photographs it is the one nearest to its target by cosine similarity.
    """
    best = read_table(source.table(f"similarity-{encoder}"), SIMILARITY).query("kind == 'photo' and image == 'best'")
    if best.empty:
        raise FeatspaceError(f"{source.tables}/similarity-{encoder}.csv: no decoded photograph; decode one")
    chosen = best.loc[best["cosine"].idxmax()]
    id, sample, folder = chosen["id"], chosen["sample"], source.decoded(encoder)
    trace = pd.read_parquet(folder / "trace.parquet").query("id == @id and sample == @sample")
    strip = read_image(folder / f"{id}-{sample}-estimates.png")
    height = strip.height
    kept = trace[trace["estimate"].notna()].sort_values("estimate")
    shown = [strip.crop((index * height, 0, (index + 1) * height, height)) for index in range(len(kept))]
    images = [read_image(source.photo(id)), *shown, read_image(folder / f"{id}-{sample}.png")]
    heads = ["target\nx", *(f"evaluation\n{evaluation + 1}" for evaluation in kept["evaluation"]), "nearest\nimage"]
    side = (WIDTH - 2 * MARGIN - (len(images) - 1) * GAP) // len(images)
    top = 2 * LINE + DPI // 12
    plot = top + side + GAP + DPI // 6
    figure = Figure(figsize=(WIDTH / DPI, (plot + PLOT + 6 * LINE) / DPI))
    for index, (image, head) in enumerate(zip(images, heads, strict=True)):
        box = Box(MARGIN + index * (side + GAP), top, side)
        write(figure, box.left + side / 2, top / 2, head, color=GRAY, linespacing=1.3, fontsize=7)
        frame(figure, box, image)
    axes = axes_at(figure, AXIS, plot, WIDTH - AXIS - MARGIN, PLOT)
    axes.semilogy(trace["evaluation"] + 1, trace["distance_before"], color="#33658a", linewidth=0.9)
    axes.semilogy(kept["evaluation"] + 1, kept["distance_before"], "o", color="#b8500f", markersize=3.5)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("squared distance", color=INK, fontsize=7)
    axes.set_xlabel("guided evaluation", color=INK, fontsize=7)
    axes.set_xlim(0, len(trace) + 1)
    for place in (trace["t"].diff() != 0).to_numpy().nonzero()[0]:
        axes.axvline(place + 1, color=GRAY, linewidth=0.4, linestyle=":")
        label = f"t = {trace['t'].iloc[place]}"
        axes.text(place + 1, 1, label, transform=axes.get_xaxis_transform(), va="bottom", color=GRAY, fontsize=6.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=6.5)
    note = (
        f"One decoding, of “{id}”, encoder “{encoder}”: the estimated clean image x̂ at the evaluations with a dot, and "
        f"how far its feature is from the target’s. Of {len(best)} images it is the nearest to its target, cosine "
        f"similarity {chosen['cosine']:.3f}. Dotted: where a noise level t begins."
    )
    bottom = plot + PLOT + 2.6 * LINE
    write(figure, MARGIN, bottom, textwrap.fill(note, 125), ha="left", va="top", color=GRAY, linespacing=1.35)
    return figure
