"""What each layer keeps: photographs, and what the feature maps along a network's depth decode to."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from matplotlib.figure import Figure

from featspace.data.targets import read_targets
from featspace.figures.samples import SHOWN, first_of, labels
from featspace.figures.style import Row, matrix
from featspace.utils.errors import FeatspaceError
from featspace.utils.images import read_image
from featspace.utils.tables import LAYERS, read_table


def draw(targets: Path, decoded: Path, table: Path) -> Figure:
    """A row a photograph, of the first SHOWN: itself, then the image decoded from each layer's map of it, by depth.

    Heads: the layer, the shape of its map, the median cosine similarity of the images' features to the targets'. Raises
    FeatspaceError if the table has no cosine, or images are missing.
    """
    layers = read_table(table, LAYERS).query("measure == 'cosine'")
    if layers.empty:
        raise FeatspaceError(f"{table}: no cosine of any layer; write it again with `featspace layers`")
    rows, photos = [], [target for target in read_targets(targets) if target.kind == "photo"]
    for photo in photos[:SHOWN]:
        files = [Path(targets) / f"{photo.id}.png"]
        files += [Path(decoded) / layer / f"{photo.id}-0.png" for layer in layers["layer"]]
        rows.append(Row(photo.id, [(read_image(file), "") for file in files]))
    layers = layers.assign(label=labels(layers["value"]))
    heads = [f"{name(row.layer)}\n{shape(row.shape)}\ncos {row.label}" for row in layers.itertuples()]
    spent = " to ".join(f"{count}" for count in sorted({layers["evaluations"].min(), layers["evaluations"].max()}))
    note = (
        f"Right of each photograph: images decoded from nothing but one layer’s features of it, encoder "
        f"“{layers['encoder'].iloc[0]}”, in {spent} guided evaluations. Above: the layer, the shape of its map "
        f"(channels × height × width), and the cosine similarity of the saved image’s map to the photograph’s, "
        f"median over {len(photos)} photographs. {first_of(len(photos), 'photographs')}"
    )
    return matrix(rows, ["\n\nphotograph", *heads], textwrap.fill(note, 125), apart=1)


def shape(text: str) -> str:
    """With hair spaces around the signs; a pooled feature's is its size."""
    return text.replace("×", "\u200a×\u200a")


def name(layer: str, limit: int = 12) -> str:
    """A layer's name, or as many of its last words as fit into `limit` characters, after an ellipsis."""
    if len(layer) <= limit:
        return layer
    ends = [layer[match.end() :] for match in re.finditer(r"[._]", layer)]
    return "…" + next((end for end in ends if 0 < len(end) < limit), layer[1 - limit :])
