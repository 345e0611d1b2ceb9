"""The viewer's data: of each decoded image its photograph or caption, its numbers, and its way there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from featspace.config.params import Profile
from featspace.data.targets import Target, read_targets
from featspace.report.images import Gallery
from featspace.utils.errors import FeatspaceError, one_line
from featspace.utils.tables import DECODED, SIMILARITY, read_table

POINTS = 120
"""Of a trace, at most, besides its lowest and those with an estimate."""
FEATURE = ""
"""In place of a layer's name: the encoder's own feature."""
MEASURED = {"id": str, "sample": int, "layer": str, "cosine": float, "judge_cosine": float}
TRACE = ("id", "sample", "evaluation", "t", "distance_before")


def read_runs(name: str, profile: Profile, data: Path, figures: Path, gallery: Gallery) -> dict[str, Any]:
    """What the page's script shows, in JSON values: `targets` by id, and `runs`, an entry an image.

    A run has target, encoder, layer, sample; best, last, strip: indices in the gallery, of the image, the last image
    and the estimates, None if there are none; frames: their number; side: of the saved image, in pixels; distance,
    cosine, judge, last_distance: numbers or None; trace: evaluations `e`, from 1 on, timesteps `t`, squared distances
    `d` and, by the index of a point, frames `f`. `name` is the profile's. Raises FeatspaceError for files that are
    missing, with the command that makes them, are damaged or do not match.
    """
    targets = {target.id: target for target in read_targets(data / "targets")}
    runs = []
    for encoder in profile.encoders:
        folder, table = data / "decoded" / encoder, figures / f"similarity-{encoder}.csv"
        needed(folder / "decoded.csv", f"decode@{name}-{encoder}")
        needed(table, f"similarity@{name}-{encoder}")
        measured = read_table(table, SIMILARITY)
        best, last = (measured[measured["image"] == image].set_index(["id", "sample"]) for image in ("best", "last"))
        numbers = best[["distance", "cosine", "judge_cosine"]].assign(last_distance=last["distance"])
        runs += [
            {"encoder": encoder, "layer": FEATURE, **run} for run in _runs(folder, table, numbers, targets, gallery)
        ]
        for layer in profile.layers.get(encoder, {}):
            folder, table = data / "layers" / encoder / layer, figures / f"layers-{encoder}.csv"
            needed(folder / "decoded.csv", f"layer-{name}-{encoder}@{layer}")
            needed(table, f"layers@{name}-{encoder}")
            measured = read_table(table, MEASURED)
            numbers = measured[measured["layer"] == layer].set_index(["id", "sample"])[["cosine", "judge_cosine"]]
            runs += [
                {"encoder": encoder, "layer": layer, **run} for run in _runs(folder, table, numbers, targets, gallery)
            ]
    shown = {run["target"]: targets[run["target"]] for run in runs}
    return {"targets": {id: _target(target, data, gallery) for id, target in shown.items()}, "runs": runs}


def needed(path: Path, stage: str) -> None:
    """Raises FeatspaceError, which names the stage that makes it, if a file is not there."""
    if not path.is_file():
        raise FeatspaceError(f"{path}: no such file; make it with `dvc repro {stage}`")


def lighter(viewer: dict[str, Any], count: int, estimates: bool) -> dict[str, Any]:
    """What `read_runs` gives, of the first `count` targets, and without estimates unless these are wanted."""
    targets = dict(list(viewer["targets"].items())[:count])
    without: dict[str, Any] = {} if estimates else {"strip": None, "frames": 0}
    return {"targets": targets, "runs": [run | without for run in viewer["runs"] if run["target"] in targets]}


def images_of(viewer: dict[str, Any]) -> set[int]:
    """Indices of all images that a viewer shows."""
    found = {run[key] for run in viewer["runs"] for key in ("best", "last", "strip")}
    return (found | {target["image"] for target in viewer["targets"].values()}) - {None}


def _target(target: Target, data: Path, gallery: Gallery) -> dict[str, Any]:
    photo = target.kind == "photo"
    return {"text": target.text, "image": gallery.add(data / "targets" / f"{target.id}.png") if photo else None}


def _runs(
    folder: Path, table: Path, numbers: pd.DataFrame, targets: dict[str, Target], gallery: Gallery
) -> Iterator[dict[str, Any]]:
    """An entry a row of a folder's decoded.csv; numbers: its measures, of `table`, by id and sample."""
    measures = numbers.to_dict("index")
    decoded = read_table(folder / "decoded.csv", {**DECODED, "saved_distance": float, "last_distance": float})
    traces = dict(iter(_read_trace(folder / "trace.parquet").groupby(["id", "sample"])))
    for row in decoded.itertuples():
        key = row.id, row.sample
        if row.id not in targets or key not in measures:
            missing = table if row.id in targets else "the targets"
            raise FeatspaceError(f"{folder}: '{row.id}', sample {row.sample}, is not in {missing}; measure again")
        own = measures[key]
        path = folder / f"{row.id}-{row.sample}.png"
        strip = folder / f"{row.id}-{row.sample}-estimates.png"
        best = gallery.add(path)
        run = {
            "target": row.id,
            "sample": row.sample,
            "best": best,
            "last": gallery.add(path.with_stem(f"{path.stem}-last")),
            "strip": gallery.add(strip, strip=True) if strip.is_file() else None,
            "frames": 0,
            "side": gallery.sizes[best][0],
            "distance": _number(own.get("distance", row.saved_distance)),
            "cosine": _number(own["cosine"]),
            "judge": _number(own["judge_cosine"]),
            "last_distance": _number(own.get("last_distance", row.last_distance)),
        }
        if run["strip"] is not None:
            width, height = gallery.sizes[run["strip"]]
            if width % height:
                raise FeatspaceError(f"{strip}: {width}x{height} pixels are no row of squares; decode again")
            run["frames"] = width // height
        run["trace"] = thinned(traces[key], run["frames"], strip) if key in traces else None
        if not run["trace"] or not run["trace"]["f"]:  # nothing says what the frames are of
            run |= {"strip": None, "frames": 0}
        yield run


def _read_trace(path: Path) -> pd.DataFrame:
    try:
        trace = pd.read_parquet(path)
    except FileNotFoundError:
        raise FeatspaceError(f"{path}: no such file; decode again") from None
    except (OSError, ValueError) as error:  # of pyarrow too
        raise FeatspaceError(f"{path}: not a trace ({one_line(error)}); decode again") from None
    if missing := [column for column in TRACE if column not in trace]:
        raise FeatspaceError(f"{path}: no column {', '.join(missing)}; decode again")
    return trace if "estimate" in trace else trace.assign(estimate=pd.NA)


def thinned(trace: pd.DataFrame, frames: int, strip: Path) -> dict[str, Any] | None:
    """At most POINTS of a trace, evenly apart, and besides them its lowest and all with one of the `frames` estimates.

    None of a trace without a positive finite distance. Raises FeatspaceError for an estimate that `strip` lacks.
    """
    evaluations, timesteps = trace["evaluation"].to_numpy(), trace["t"].to_numpy()
    distances = trace["distance_before"].to_numpy(float)
    shown = trace["estimate"].to_numpy(float, na_value=np.nan) if frames else np.full(len(trace), np.nan)
    order = np.argsort(evaluations, kind="stable")
    order = order[np.isfinite(distances[order]) & (distances[order] > 0)]
    if not len(order):
        return None
    named = order[np.isfinite(shown[order])]
    if ((shown[named] < 0) | (shown[named] > frames - 1)).any():
        raise FeatspaceError(f"{strip}: has {frames} frames, but the trace names others; decode again")
    kept = {*order[np.linspace(0, len(order) - 1, min(POINTS, len(order))).round().astype(int)]}
    kept |= {order[distances[order].argmin()], *named}
    rows = [row for row in order if row in kept]
    return {
        "e": (evaluations[rows] + 1).tolist(),
        "t": timesteps[rows].tolist(),
        "d": [float(f"{distance:.4g}") for distance in distances[rows]],
        "f": {point: int(shown[row]) for point, row in enumerate(rows) if np.isfinite(shown[row])},
    }


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(f"{value:.6g}")
