"""A tiny profile as its stages would leave it, made by hand: two encoders, one layer, a photograph and a caption."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from ruamel.yaml import YAML

from featspace.data.targets import Target, write_list

SIDE, FRAMES, EVALUATIONS = 16, 4, 40
EVIL = (
    """<script>window.stolen = 1</script><!--'"><img src=x onerror="window.stolen = 1"></td></title>&lt;b&gt;\u2028"""
)
"""As a caption, a cell or a head of a table, or a name: must stay text, in HTML, in its attributes, and in JSON."""
OWN = """<b>own'" onerror="window.stolen = 1\""""
"""As the name of a figure's and a table's file, which has no slash."""
PROFILE = {
    "prior": "data/models/prior",
    "resolution": SIDE,
    "encoders": {"clip": {"network": "data/models/clip"}, "resnet": {"network": "data/models/resnet"}},
    "judge": "data/models/judge",
    "decode": {"samples": 2, "evaluations": EVALUATIONS},
    "photos": {"cat": {"image": "cat.png"}, "dog": {"image": "dog.png"}},
    "captions": {"tabby": EVIL},
    "layers": {"resnet": {"layer1": EVALUATIONS}},
}
TARGETS = {"clip": ["cat", "dog", "tabby"], "resnet": ["cat", "dog"], "layer1": ["cat", "dog"]}


def image(seed: int, path: Path, frames: int = 1) -> None:
    """Flat squares of colors that no other seed has, in a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colors = np.random.default_rng(seed).integers(0, 256, (1, frames, 3), np.uint8)
    Image.fromarray(colors.repeat(SIDE, axis=0).repeat(SIDE, axis=1)).save(path)


def distance(seed: int, evaluation: int) -> float:
    """Falls by a factor of about a thousand; the least is not the last."""
    return 1000.0 * (1 + seed) * 0.8 ** min(evaluation, 2 * (EVALUATIONS - 5) - evaluation)


def decoded(folder: Path, targets: list[str], seed: int, samples: int, strips: bool) -> pd.DataFrame:
    """Writes what `decode` does; its table."""
    rows, trace = [], []
    for id in targets:
        for sample in range(samples):
            seed += 1
            image(seed, folder / f"{id}-{sample}.png")
            image(seed + 500, folder / f"{id}-{sample}-last.png")
            if strips:
                image(seed + 900, folder / f"{id}-{sample}-estimates.png", FRAMES)
            for evaluation in range(EVALUATIONS):
                shown = strips and evaluation % 10 == 5
                row = {"id": id, "sample": sample, "evaluation": evaluation, "t": 900 - 10 * evaluation}
                row |= {"distance_before": distance(seed, evaluation), "distance_after": np.nan}
                trace.append(row | ({"estimate": evaluation // 10 if shown else None} if strips else {}))
            rows.append({"id": id, "sample": sample, "saved_distance": 1.5 * seed, "last_distance": 2.5 * seed})
    table = pd.DataFrame(rows).assign(cosine=lambda x: 1 - x["saved_distance"] / 1e4)
    table.to_csv(folder / "decoded.csv", index=False)
    frame = pd.DataFrame(trace)
    frame = frame.astype({"estimate": "Int64"}) if strips else frame
    frame.to_parquet(folder / "trace.parquet", index=False)
    return table


def write_similarity(table: pd.DataFrame, encoder: str, figures: Path) -> None:
    """Of what `decoded` gives."""
    rows = [
        {
            "encoder": encoder,
            "id": row.id,
            "sample": row.sample,
            "kind": "caption" if row.id == "tabby" else "photo",
            "image": shown,
            "distance": row.saved_distance if shown == "best" else row.last_distance,
            "cosine": row.cosine,
            "judge_cosine": np.nan if row.id == "tabby" else row.cosine / 2,
            "top1_agrees": np.nan,
            "judge_top1_agrees": np.nan,
        }
        for row in table.itertuples()
        for shown in ("best", "last")
    ]
    pd.DataFrame(rows).to_csv(figures / f"similarity-{encoder}.csv", index=False, float_format="%.6g")


def write_many(root: Path, count: int) -> None:
    """A profile of three encoders and `count` photographs, with a long table that has `EVIL` in it."""
    data, figures = root / "data/mini", root / "figures/mini"
    figures.mkdir(parents=True)
    ids = [f"t{number:04d}" for number in range(count)]
    encoders = {name: {"network": "data/models/clip"} for name in ("clip", "resnet", "vit")}
    own = {"encoders": encoders, "photos": {id: {"image": "a.png"} for id in ids}, "captions": {}, "layers": {}}
    YAML(typ="safe").dump({"seed": 7, "mini": {**PROFILE, **own}}, root / "params.yaml")
    for seed, id in enumerate(ids):
        image(5000 + seed, data / "targets" / f"{id}.png")
    lines = ["id,kind,text,source", *(f"{id},photo,,a.png" for id in ids)]
    (data / "targets/targets.csv").write_text("\n".join(lines) + "\n")
    (data / "weights.json").write_text(json.dumps({"files": [], "hub": []}))
    (figures / "metrics.json").write_text(json.dumps({"clip": {"images": count}}))
    for seed, encoder in enumerate(encoders):
        table = decoded(data / "decoded" / encoder, ids, 10_000 * seed, 1, encoder == "clip")
        write_similarity(table, encoder, figures)
    numbers = np.random.default_rng(0).permutation(10_000)
    words = [EVIL if number == 4321 else f"n{number}" for number in numbers]
    long = pd.DataFrame({"word": words, "whole": numbers - 5000, "number": numbers / 7})
    long.to_csv(figures / "many.csv", index=False, float_format="%.6g")


def write_profile(root: Path) -> None:
    """params.yaml, data/mini and figures/mini. The estimates of the encoder clip are kept, the others' are not."""
    data, figures = root / "data/mini", root / "figures/mini"
    figures.mkdir(parents=True)
    YAML(typ="safe").dump({"seed": 7, "mini": PROFILE}, root / "params.yaml")
    for seed, name in enumerate(PROFILE["photos"]):
        image(5000 + seed, data / "targets" / f"{name}.png")
    rows = [("cat", "photo", "", "cat.png"), ("dog", "photo", "", "dog.png"), ("tabby", "caption", EVIL, "")]
    write_list(data / "targets", [Target(*row) for row in rows])
    weights = {"path": f"data/models/clip/{OWN}", "sha256": "ab" * 32, "bytes": 12345}
    pin = {"repository": "some/where", "revision": "1.0", "files": {EVIL: {"sha256": "cd" * 32, "bytes": 9}}}
    (data / "weights.json").write_text(json.dumps({"files": [weights], "hub": [pin]}))
    for seed, encoder in ((0, "clip"), (100, "resnet")):
        table = decoded(data / "decoded" / encoder, TARGETS[encoder], seed, 2, encoder == "clip")
        write_similarity(table, encoder, figures)
    table = decoded(data / "layers/resnet/layer1", TARGETS["layer1"], 200, 1, False)
    layers = table.assign(layer="layer1", judge_cosine=0.25)[["layer", "id", "sample", "cosine", "judge_cosine"]]
    layers.to_csv(figures / "layers-resnet.csv", index=False)
    lines = ["name,size,number", "b,9,0.25", "a,10,−", "c,100,3"]
    (figures / "sizes.csv").write_text("\n".join([lines[0], *(x.replace("−", "-12345.678") for x in lines[1:])]) + "\n")
    with open(figures / f"{OWN}.csv", "w", newline="") as file:
        csv.writer(file).writerows([("word", EVIL), (EVIL, 1), ("none", 2)])
    tree = {"clip": {"images": 6, "cosine": {"median": 0.5, "median_low": 0.25, "median_high": 0.75}}}
    (figures / "metrics.json").write_text(json.dumps(tree))
    for seed, stem in enumerate(("figure10", "figure3", "figureA2", "featinv", OWN)):
        Image.effect_noise((2000 + seed, 40), 50).convert("RGB").save(figures / f"{stem}.png")
    (figures / "figure3.pdf").write_bytes(b"%PDF")
