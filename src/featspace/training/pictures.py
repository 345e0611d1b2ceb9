"""The pictures of the model card: samples, reconstructions, and how near samples come to training photographs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from PIL import Image

from featspace.plotting import DPI, GAP, GRAY, MARGIN, NAME, WIDTH, Box, frame, write
from featspace.training.measures import Neighbors

COLORS = {"samples": "#b3541e", "held-out photographs": "#33658a"}


def grid(rows: Sequence[Sequence[Image.Image]], names: Sequence[str] = ()) -> Figure:
    """Rows of equally many square images, each row with its name to the left if there are names."""
    left, count = (NAME if names else MARGIN), len(rows[0])
    side = (WIDTH - left - MARGIN - (count - 1) * GAP) // count
    height = -(-(len(rows) * (side + GAP) - GAP + 2 * MARGIN) * 8 // DPI) * DPI // 8
    figure = Figure(figsize=(WIDTH / DPI, height / DPI))
    for y, images in enumerate(rows):
        top = MARGIN + y * (side + GAP)
        if names:
            write(figure, left / 2, top + side / 2, names[y], rotation=90, color=GRAY)
        for x, image in enumerate(images):
            frame(figure, Box(left + x * (side + GAP), top, side), image)
    return figure


def histograms(neighbors: Sequence[Neighbors]) -> Figure:
    """Side by side: distances to the nearest training photograph, of samples and of held-out photographs."""
    figure = Figure(figsize=(WIDTH / DPI, 2.5), layout="constrained")
    for axes, distances in zip(figure.subplots(1, len(neighbors)), neighbors, strict=True):
        both = dict(zip(COLORS, (distances.samples, distances.held_out), strict=True))
        edges = torch.linspace(0, float(torch.cat(list(both.values())).max()), 50).numpy()
        for name, values in both.items():
            axes.hist(values.numpy(), edges, histtype="stepfilled", color=COLORS[name], alpha=0.45, label=name)
            axes.axvline(float(values.median()), color=COLORS[name], linewidth=0.8)
        axes.set(xlabel=distances.measure, xlim=(0, None))
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_yticks([])
    figure.axes[0].set_ylabel("images")
    figure.axes[0].legend(frameon=False, loc="upper left")
    return figure
