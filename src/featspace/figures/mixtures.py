"""Figure 13: from one photograph's feature to another's, by encoder; means and prototypes of classes."""

from __future__ import annotations

import textwrap

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from featspace.figures.samples import labels
from featspace.figures.source import Source
from featspace.figures.style import Row, matrix
from featspace.utils.images import read_image
from featspace.utils.tables import MIXED, read_table

KINDS = {"mean": "class mean", "prototype": "prototype"}


def draw_between(source: Source) -> Figure:
    """A row an encoder and pair of photographs: the one, the images decoded along the way, the other."""
    rows, heads = [], []
    for encoder in source.encoders:
        table = _read(source, encoder).query("kind == 'between'")
        for (first, second), own in table.groupby(["first", "second"], sort=False):
            if not (source.photo(first).is_file() and source.photo(second).is_file()):  # a caption's: Figure 9
                continue
            own = own.sort_values("share")
            images = [image(source, encoder, row.id, row.share) for row in own.itertuples()]
            steps = list(zip(images, labels(own["cosine"]), strict=True))
            ends = [(read_image(source.photo(end)), "") for end in (first, second)]
            rows.append(Row(encoder, [ends[0], *steps, ends[1]]))
            heads = [first, *(f"{share:.0%}" for share in own["share"]), second]
    note = (
        "Images decoded from features on the way from one photograph’s to the other’s, at such shares of the angle "
        "between them; 0 % and 100 % are the photographs’ own. Numbers: cosine similarity of the image’s feature to "
        "the one that was decoded."
    )
    return matrix(rows, heads, textwrap.fill(note, 120))


def draw_classes(source: Source) -> Figure:
    """A column a class: the image of its photographs' mean feature, and that of the classifier's weights."""
    for encoder in source.encoders:
        table = _read(source, encoder) if source.table(f"mixtures-{encoder}").is_file() else pd.DataFrame()
        own = table[table["kind"].isin(KINDS)] if len(table) else table
        if len(own):
            break
    classes = list(dict.fromkeys(own["first"]))
    rows = []
    for kind, name in KINDS.items():
        part = own[own["kind"] == kind].set_index("first")
        if len(part):
            marks = ["✓" if hit else "–" for hit in part["judge_top5"][classes]]
            text = [f"{label}   {mark}" for label, mark in zip(labels(part["cosine"][classes]), marks, strict=True)]
            images = [image(source, encoder, part["id"][name_of], 0.5) for name_of in classes]
            rows.append(Row(name, list(zip(images, text, strict=True))))
    note = (
        f"Images decoded from features of whole classes, encoder “{encoder}”: the mean feature of held-out "
        "photographs, and the classifier’s weights of the class, which no image’s feature is near to. Numbers: cosine "
        "similarity of the image’s feature to the one that was decoded. ✓: the class is among the first five that the "
        "judge, another network, sees in the image."
    )
    return matrix(rows, [name.replace("_", " ") for name in classes], textwrap.fill(note, 120))


def image(source: Source, encoder: str, id: str, share: float) -> Image.Image:
    """The image decoded from a mixture; of its ends, the shares 0 and 1, that of the target."""
    folder = source.decoded(encoder) if share in (0, 1) else source.data / "mixtures" / encoder
    return read_image(folder / f"{id}-0.png")


def _read(source: Source, encoder: str) -> pd.DataFrame:
    return read_table(source.table(f"mixtures-{encoder}"), MIXED)
