"""One module a kind of figure: reads tables and images, draws, computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from featspace.figures import captions, layers, layers_depth, overview, photos
from featspace.figures.style import save, style
from featspace.utils.errors import UsageError

FIGURES = {"photos": photos.draw, "captions": captions.draw}
"""Of one encoder; the overview is of several."""
OVERVIEW = "overview"
LAYERS = {"layers": layers.draw, "layers-depth": layers_depth.draw}
"""Of the layers of one encoder."""


def run_figure(
    name: str, targets: Path, decoded: Sequence[Path], tables: Sequence[Path], references: Sequence[Path], out: Path
) -> None:
    """Draws figure `name` (a key of FIGURES or LAYERS, or OVERVIEW) and writes <out>.png and <out>.pdf.

    targets, decoded: folders of images; tables, references: CSVs of `run_similarity` and `run_references`; one of
    each an encoder. Of LAYERS, decoded: a folder with a folder a layer; tables: the summary of `run_layers`. Raises
    UsageError for an unknown name or several encoders where one is drawn, and FeatspaceError for files that are missing
    or do not match.
    """
    if name not in (known := (*FIGURES, OVERVIEW, *LAYERS)):
        raise UsageError(f"figure '{name}': unknown; choose one of {', '.join(known)}")
    if name in LAYERS:
        if len(decoded) != 1 or len(tables) != 1:
            raise UsageError(f"figure '{name}' is of one encoder: name one --decoded and one --table")
        with style():
            return save(LAYERS[name](targets, decoded[0], tables[0]), out)
    given = [decoded, tables, references]
    if name != OVERVIEW and any(len(paths) != 1 for paths in given):
        raise UsageError(f"figure '{name}' is of one encoder: name one --decoded, one --table and one --references")
    with style():
        if name == OVERVIEW:
            save(overview.draw(targets, decoded, tables), out)
        else:
            save(FIGURES[name](targets, decoded[0], tables[0], references[0]), out)
