"""Figures of the second decoder: reconstructions beside originals, three ways of decoding, a steered series."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from featspace.figures.samples import labels
from featspace.figures.style import Row, matrix, save, style
from featspace.utils.errors import FeatspaceError
from featspace.utils.images import read_image
from featspace.utils.tables import EVALUATED, STEERED, SUMMARY, TOGETHER, WAYS, read_table

KINDS = {"guided": "guided", "featinv": "FeatInv", "both": "both"}


def run_figure(name: str, folders: Sequence[Path], out: Path) -> None:
    """Draws `reconstructions` (folders of `featinv evaluate`), `together` or `steer`; writes <out>.png and <out>.pdf.

    Raises FeatspaceError for files that are missing or do not match.
    """
    with style():
        save({"reconstructions": reconstructions, "together": together, "steer": steer}[name](folders), out)


def reconstructions(folders: Sequence[Path]) -> Figure:
    """A column a photograph, and below it a row a ControlNet, each image with the cosine similarity of its map."""
    rows, ids, heads = [], None, []
    for folder in folders:
        table = read_table(folder / "evaluation.csv", EVALUATED).set_index("id")
        shown = [id for id in table.index if (folder / f"{id}-0.png").is_file()]
        if ids is None:
            ids = shown
            heads = [name if isinstance(name, str) else id for id, name in table["class"].items() if id in ids]
            rows.append(Row("target", [(read_image(folder / f"{id}.png"), "") for id in ids]))
        if shown != ids:
            raise FeatspaceError(f"{folder}: shows other photographs than {folders[0]}; evaluate both alike")
        name = read_table(folder / "summary.csv", SUMMARY)["controlnet"].iloc[0]
        images = [read_image(folder / f"{id}-0.png") for id in ids]
        rows.append(Row(name, list(zip(images, labels(table["map_cosine"][ids]), strict=True))))
    note = (
        "Each row: images that one ControlNet makes of nothing but a network’s feature of the photograph, a map or "
        "pooled. Numbers: cosine similarity of that map of the image to the photograph’s, averaged over positions; "
        "where the feature is pooled, of the map that it is pooled from."
    )
    return matrix(rows, heads, textwrap.fill(note, 115))


def together(folders: Sequence[Path]) -> Figure:
    """A column a target; below it what guided decoding, FeatInv and both make of its feature map."""
    (folder,) = folders
    table = read_table(folder / "together.csv", TOGETHER)
    ids = list(table["id"].unique())
    rows = [Row("target", [(read_image(folder / f"{id}.png"), "") for id in ids])]
    for way in WAYS:
        own = table[table["way"] == way].set_index("id")
        images = [read_image(folder / f"{id}-{way}.png") for id in ids]
        rows.append(Row(KINDS[way], list(zip(images, labels(own["map_cosine"][ids]), strict=True))))
    spent = table.groupby("way", sort=False)["evaluations"].first()
    note = (
        "The same feature maps decoded by guidance, by FeatInv, and by guidance that starts from FeatInv’s image. "
        "Numbers: cosine similarity of the network’s map of the image to the target’s, averaged over positions. Cost "
        f"in guided evaluations: {', '.join(f'{KINDS[way]} {spent[way]:.3g}' for way in WAYS)}."
    )
    return matrix(rows, ids, textwrap.fill(note, 115))


def steer(folders: Sequence[Path]) -> Figure:
    """A strip: the series of images along the direction, with their strengths."""
    (folder,) = folders
    table = read_table(folder / "steer.csv", STEERED)
    images = [(read_image(folder / row.file), _signed(f"moved {row.moved:.2f}")) for row in table.itertuples()]
    heads = [_signed(f"strength {row.strength:g}") for row in table.itertuples()]
    original = folder / f"{table['file'].iloc[0].rpartition('-')[0]}.png"
    if original.is_file():
        images, heads = [(read_image(original), "photograph"), *images], ["", *heads]
    note = (
        "A feature map plus a direction times its strength, decoded with the same noise. Below the strength: how far "
        "the network’s own map of the image moved along the direction, in units of the direction’s length."
    )
    return matrix([Row("", images)], heads, textwrap.fill(note, 115))


def _signed(text: str) -> str:
    """With a minus sign in place of the hyphen."""
    return text.replace("-", "−")
