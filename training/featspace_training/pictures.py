"""The histograms of the model card: how near samples come to training photographs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure

from featspace.figures.style import DPI, WIDTH
from featspace_training.measures import Neighbors

COLORS = {"samples": "#b3541e", "held-out photographs": "#33658a"}


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
