"""One module a kind of figure: reads tables and images, draws, computes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from featspace.figures import (
    ablation,
    captions,
    gap,
    layers,
    layers_depth,
    method,
    mixtures,
    neighbors,
    overview,
    photos,
    spread,
    traces,
)
from featspace.figures.source import Source
from featspace.figures.style import save, style
from featspace.utils.errors import UsageError, suggest


def figures_of(source: Source) -> dict[str, Callable[[], Figure]]:
    """The figures of a profile, by the name that follows `figure` in their files' names.

    Numbers are the paper's, in which 3, 5 and 7 are of one encoder each. What 4, 6, 9 and 11 to 13 show is this
    project's reading: the authors publish them as images alone. A1 to A3 are its own.
    """
    clip, convnet, vit = [*source.encoders, *[source.encoders[-1]] * 2][:3]  # a profile may have fewer

    def one(draw: Callable[..., Figure], encoder: str) -> Callable[[], Figure]:
        given = source.targets, source.decoded(encoder), source.table(f"similarity-{encoder}")
        return lambda: draw(*given, source.table(f"references-{encoder}"))

    def depth(draw: Callable[..., Figure], encoder: str) -> Callable[[], Figure]:
        given = source.targets, source.data / "layers" / encoder, source.table(f"layers-{encoder}-summary")
        return lambda: draw(*given)

    decoded = [source.decoded(encoder) for encoder in source.encoders]
    similarities = [source.table(f"similarity-{encoder}") for encoder in source.encoders]
    found: dict[str, Callable[[], Figure]] = {
        "2": lambda: method.draw(source, convnet),
        "3": one(photos.draw, clip),
        "4": lambda: neighbors.draw(source, clip),
        "5": one(photos.draw, convnet),
        "6": lambda: neighbors.draw(source, convnet),
        "7": one(photos.draw, vit),
        "8": one(captions.draw, clip),
        "9": lambda: gap.draw(source, clip),
        "11": lambda: ablation.draw(source, "schedule"),
        "12": lambda: ablation.draw(source, "guidance"),
        "13": lambda: mixtures.draw_between(source),
        "13-classes": lambda: mixtures.draw_classes(source),
        "A1": lambda: overview.draw(source.targets, decoded, similarities),
        "A2": lambda: spread.draw(source),
        "A3": lambda: traces.draw(source),
    }
    for encoder in source.depths:
        found[f"layers-{encoder}"] = depth(layers.draw, encoder)
        found[f"layers-{encoder}-depth"] = depth(layers_depth.draw, encoder)
    return found


def run_figures(source: Source, out: Path, only: Sequence[str] = (), dpi: int | None = None) -> list[Path]:
    """Draws a profile's figures, or those named in `only`, into `out`, as PNG and PDF: figure<name>, layers-<encoder>.

    `dpi`: dots an inch of the PNG, by default the style's. Returns the PNGs. Raises UsageError, which lists the
    figures, for a name that is none's; FeatspaceError for data that are missing or do not match.
    """
    known = figures_of(source)
    if unknown := [name for name in only if name not in known]:
        hint = suggest(unknown[0], known)
        raise UsageError(f"figure {unknown[0]}: there is none of that name{hint}; there are: {', '.join(known)}")
    written = []
    with style():
        for name in only or known:
            stem = out / (name if name.startswith("layers") else f"figure{name}")
            save(known[name](), stem, dpi=dpi)
            written.append(stem.with_name(f"{stem.name}.png"))
    return written
