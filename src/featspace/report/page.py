"""The report of a profile: one HTML file, which needs no other and no network."""

from __future__ import annotations

import base64
import gzip
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from itables.utils import read_package_file
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from featspace.config.params import Params
from featspace.report.captions import of_figure, of_table, ordered
from featspace.report.durations import read_durations
from featspace.report.images import LEVELS, Gallery, Level, figure_picture
from featspace.report.provenance import as_yaml, hardware, read_commit, read_weights, versions
from featspace.report.runs import images_of, lighter, needed, read_runs
from featspace.report.tables import PAGE, read_tables
from featspace.utils.errors import FeatspaceError
from featspace.utils.files import atomic_file

LIMIT = 15_000_000
"""Bytes of the page, at most."""


def run_report(params: Params, name: str, data: Path, figures: Path, out: Path, limit: int = LIMIT) -> None:
    """Writes the page of the profile `name`, of at most `limit` bytes, complete or not at all.

    data: folder with weights.json, targets, decoded and layers. figures: folder of what was drawn and measured; those
    that are not there are left out, but for the tables that the viewer needs. Images are made lighter until the page
    is small enough; if that does not do, estimates are left out, then targets; and it says so. Raises UsageError for an
    unknown profile, and FeatspaceError for files that are missing, with what makes them, or damaged, and for a page
    that does not become small enough.
    """
    profile = params.profile(name)
    for path, stage in (
        (data / "weights.json", "fetch"),
        (data / "targets/targets.csv", "targets"),
        (figures / "metrics.json", "metrics"),
    ):
        needed(path, f"{stage}@{name}")
    gallery = Gallery()
    runs = read_runs(name, profile, data, figures, gallery)
    content: dict[str, Any] = {
        "name": name,
        "built": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": version("featspace"),
        "commit": read_commit(params.root),
        "parameters": as_yaml(params, profile),
        "weights": read_weights(data / "weights.json"),
        "versions": versions(),
        "hardware": hardware(),
        "durations": read_durations(params.root, [data, figures]),
        "tables": [(table, of_table(Path(table.name).stem)) for table in read_tables(figures)],
        "folder": quote(Path(os.path.relpath(figures, out.parent)).as_posix()),
        "resolution": profile.resolution,
        "page": PAGE,
        "known": len(runs["targets"]),
    }
    before, drawn = None, []
    fewer = [(LEVELS[-1], content["known"] >> halvings) for halvings in range(1, content["known"].bit_length())]
    for level, count in [*((level, content["known"]) for level in LEVELS), *fewer]:
        if (level.width, level.figure) != before:
            before, drawn = (level.width, level.figure), list(_figures(figures, level))
        spent = sum(len(picture.uri) for _, picture, *_ in drawn)
        viewer = lighter(runs, count, level.frame > 0)
        images = gallery.embed(level, limit - spent, images_of(viewer))
        if images is not None:
            page = _render(**content, figures=drawn, viewer=viewer, images=images, level=level).encode()
            if len(page) <= limit:
                with atomic_file(out) as partial:
                    partial.write_bytes(page)
                return
    small = f"even with images of {LEVELS[-1].side} pixels the page is larger than {limit / 1e6:g} MB"
    raise FeatspaceError(f"{out}: {small}; decode fewer samples or layers in profile '{name}'")


def _figures(folder: Path, level: Level) -> Iterator[tuple[Any, ...]]:
    """Of each PNG its name, picture, texts, and the suffixes of the files beside it."""
    for stem in ordered(path.stem for path in folder.glob("*.png")):
        suffixes = [suffix for suffix in ("png", "pdf") if (folder / f"{stem}.{suffix}").is_file()]
        yield stem, figure_picture(folder / f"{stem}.png", level), of_figure(stem), suffixes


def packed(value: Any) -> str:
    """JSON, compressed by gzip, in base64."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode("ascii")


def _render(**content: Any) -> str:
    environment = Environment(
        loader=PackageLoader("featspace.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["packed"] = packed
    templates = files("featspace.report") / "templates"
    bundle = base64.b64encode(read_package_file("html", "dt_bundle.js").encode()).decode("ascii")
    return environment.get_template("report.html").render(
        **content,
        style=Markup((templates / "report.css").read_text(encoding="utf-8")),  # noqa: S704 - the package's own
        script=Markup((templates / "report.js").read_text(encoding="utf-8")),  # noqa: S704
        imports={"imports": {"datatables": f"data:text/javascript;base64,{bundle}"}},
    )
