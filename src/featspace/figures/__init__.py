"""One module a kind of figure: reads tables and images, draws, computes nothing."""

from __future__ import annotations

from pathlib import Path

from featspace.errors import UsageError
from featspace.figures import captions, photos
from featspace.plotting import save, style

FIGURES = {"photos": photos.draw, "captions": captions.draw}


def run_figure(name: str, targets: Path, decoded: Path, table: Path, references: Path, out: Path) -> None:
    """Draws figure `name` (a key of FIGURES) and writes <out>.png and <out>.pdf.

    targets, decoded: folders of images; table, references: CSVs of `run_similarity` and `run_references`.
    Raises UsageError for an unknown name and FeatspaceError for files that are missing or do not match.
    """
    if name not in FIGURES:
        raise UsageError(f"figure '{name}': unknown; choose one of {', '.join(FIGURES)}")
    with style():
        save(FIGURES[name](targets, decoded, table, references), out)
