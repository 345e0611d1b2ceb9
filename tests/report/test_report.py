"""The page a reviewer reads: what is in it, what it leaves out, and how large it gets."""

from __future__ import annotations

import base64
import gzip
import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
import toy_report
from PIL import Image

from featspace.cli import main
from featspace.config.params import Params
from featspace.report import page as building
from featspace.report.captions import FILE, of_figure, of_table, ordered
from featspace.report.images import LEVELS, Gallery
from featspace.report.page import run_report
from featspace.report.provenance import read_commit
from featspace.report.tables import rounded, shown
from featspace.utils.errors import FeatspaceError


class Parts(HTMLParser):
    """The page's elements, their attributes, and the text of each script."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self._script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self._script = dict(attributes).get("type", "") if tag == "script" else None

    def handle_data(self, data):
        if self._script is not None:
            self.scripts[self._script] = data
            self._script = None

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def unpacked(parts: Parts) -> dict[str, Any]:
    """Targets and runs of the viewer."""
    return json.loads(gzip.decompress(base64.b64decode(parts.scripts["application/gzip"])))


@pytest.fixture(scope="module")
def parts(built: Path) -> Parts:
    return Parts(built.read_text(encoding="utf-8"))


def test_figures_are_in_order_with_what_is_said_of_them(parts: Parts) -> None:
    figures = [attributes for attributes in parts.of("figure") if attributes["id"] not in VIEWER]
    assert [figure["id"] for figure in figures] == ["figure3", "figureA2", "featinv", toy_report.OWN, "figure10"]
    images = parts.of("img")
    assert [image["alt"] for image in images][2:4] == [of_figure("featinv").alt, f"The figure {toy_report.OWN}"]
    assert all(image["width"] == "1600" and image["src"].startswith("data:image/") for image in images)
    links = [link["href"] for link in parts.of("a")]
    own = f"./{quote(toy_report.OWN)}.png"
    assert {"./figure3.png", "./figure3.pdf", own, "./sizes.csv", "./metrics.json"} <= {*links}
    assert "./featinv.pdf" not in links  # is not there


VIEWER = ("photograph", "best", "last", "estimate")


def test_what_is_linked_from_elsewhere_is_there(profile: Path, tmp_path: Path) -> None:
    out = tmp_path / "else/where.html"
    main(["report", "--params", str(profile / "params.yaml"), "--out", str(out)])
    links = [link["href"] for link in Parts(out.read_text()).of("a")]
    (figure,) = [link for link in links if link.endswith("figure3.pdf")]
    assert (out.parent / figure).is_file()


def test_the_viewer_has_every_image_once_with_its_numbers(parts: Parts, profile: Path) -> None:
    viewer, images = unpacked(parts), json.loads(parts.scripts["application/json"])
    keys = [(run["encoder"], run["layer"], run["target"], run["sample"]) for run in viewer["runs"]]
    assert len(keys) == len(set(keys)) == 3 * 2 + 2 * 2 + 2
    assert len(images) == len(set(images)) == 2 + 12 + 12 + 6  # photographs, best, last, strips
    run = viewer["runs"][keys.index(("clip", "", "dog", 1))]
    own = pd.read_csv(profile / "figures/mini/similarity-clip.csv").query("id == 'dog' and sample == 1")
    best, last = own.iloc[0], own.iloc[1]
    assert [run["distance"], run["cosine"], run["judge"]] == pytest.approx(
        [best.distance, best.cosine, best.judge_cosine]
    )
    assert run["last_distance"] == last.distance and (run["frames"], run["side"]) == (4, 16)
    assert run["trace"]["f"] == {"5": 0, "15": 1, "25": 2, "35": 3}
    tabby = viewer["runs"][keys.index(("clip", "", "tabby", 0))]
    assert tabby["judge"] is None and viewer["targets"]["tabby"] == {"text": toy_report.EVIL, "image": None}
    layer = viewer["runs"][keys.index(("resnet", "layer1", "cat", 0))]
    assert (layer["distance"], layer["judge"], layer["strip"]) == (pytest.approx(1.5 * 201), 0.25, None)


def test_a_long_trace_is_thinned_and_keeps_its_lowest_and_its_estimates(copied: Path) -> None:
    folder = Path("data/mini/decoded/clip")
    trace = pd.read_parquet(folder / "trace.parquet")
    long = pd.concat([trace.query("id == 'cat' and sample == 0")] * 50).assign(estimate=pd.NA)
    long = long.assign(evaluation=range(len(long)), distance_before=np.geomspace(1e4, 1e2, len(long)))
    long.loc[long["evaluation"] == 777, ["distance_before", "estimate"]] = [1.0, 2]
    long.loc[long["evaluation"] == 778, "distance_before"] = np.nan
    pd.concat([long, trace.query("id != 'cat' or sample != 0")]).to_parquet(folder / "trace.parquet", index=False)
    main(["report", "--out", "report.html"])
    runs = unpacked(Parts(Path("report.html").read_text()))["runs"]
    thin = next(run for run in runs if (run["target"], run["sample"]) == ("cat", 0))["trace"]
    assert 120 <= len(thin["e"]) <= 122 and thin["e"][0] == 1 and thin["e"][-1] == len(long)
    lowest = thin["e"].index(778)
    assert thin["d"][lowest] == min(thin["d"]) == 1 and thin["f"] == {str(lowest): 2}


def test_whatever_comes_from_files_is_escaped(parts: Parts, built: Path) -> None:
    assert len(parts.of("script")) == 4
    text = built.read_text(encoding="utf-8")
    assert toy_report.EVIL not in text and toy_report.OWN not in text and "<b>" not in text
    assert not [key for _, attributes in parts.found for key in attributes if key.startswith("on")]


def test_nothing_is_fetched(parts: Parts) -> None:
    (policy,) = [meta["content"] for meta in parts.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    allowed = {word for rule in policy.split(";") for word in rule.split()[1:]}
    assert policy.startswith("default-src 'none'") and allowed == {"'none'", "'unsafe-inline'", "data:"}
    sources = [value for _, attributes in parts.found for key, value in attributes.items() if key in ("src", "srcset")]
    assert sources and all(source.startswith("data:") for source in sources)
    assert all(link["href"].startswith("data:") for link in parts.of("link"))


def test_provenance_is_what_the_files_say(built: Path) -> None:
    text = built.read_text(encoding="utf-8")
    for said in (
        "ab" * 32,
        "cd" * 32,
        "some/where 1.0",
        "seed: 7",
        "resolution: 16",
        "AVX" if AVX else "torch",
        "no git",
    ):
        assert said in text, said


AVX = "avx2" in Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else False


def test_the_commit_is_that_of_the_folder_itself(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        own = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
        return subprocess.run([*own, *arguments], check=True, capture_output=True, text=True).stdout.strip()

    assert read_commit(tmp_path) is None
    git("init", "-q")
    assert read_commit(tmp_path) is None  # nothing is committed
    (tmp_path / "a b.txt").write_text("a")
    git("add", ".")
    git("commit", "-qm", "One")
    date = git("log", "-1", "--format=%cI")
    assert read_commit(tmp_path) == (git("rev-parse", "HEAD"), date, [])
    (tmp_path / "a b.txt").write_text("b")
    (tmp_path / "untracked.txt").write_text("b")
    assert read_commit(tmp_path).changed == ["a b.txt"]
    (tmp_path / "inside").mkdir()
    assert read_commit(tmp_path / "inside") is None


def test_large_images_are_made_lighter_and_the_page_says_so(copied: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), np.uint8)
    for number, path in enumerate(sorted(Path("data/mini/decoded").glob("*/*.png"))):
        if not path.stem.endswith("estimates"):
            Image.fromarray(np.roll(noise, number, axis=0)).save(path)
    whole = building.LIMIT
    main(["report", "--out", "report.html"])
    text = Path("report.html").read_text()
    assert "at most 512 pixels a side" in text and "without loss" not in text
    limit = len(text) // 2
    assert limit < whole
    params = Params.load(Path("params.yaml"))
    folders = Path("data/mini"), Path("figures/mini")
    run_report(params, "mini", *folders, Path("small.html"), limit)
    small = Path("small.html").read_bytes()
    assert len(small) <= limit and re.search(rb"at most (384|256|192) pixels a side", small)
    with pytest.raises(FeatspaceError, match="even with images of 64 pixels the page is larger than 0.5 MB"):
        run_report(params, "mini", *folders, Path("none.html"), 500_000)
    assert not Path("none.html").exists()


def test_small_images_are_embedded_without_loss(profile: Path, built: Path) -> None:
    gallery = Gallery()
    index = gallery.add(profile / "data/mini/decoded/clip/cat-0.png")
    assert gallery.add(profile / "data/mini/decoded/clip/cat-0.png") == index
    (uri,) = gallery.embed(LEVELS[0], 10**6)
    assert uri in built.read_text() and gallery.embed(LEVELS[0], 10) is None


def test_numbers_have_as_many_digits_within_a_column() -> None:
    assert [cell.text for cell in shown(["0.5", "", "-0.99999", "0.12345"])] == ["0.5000", "", "−1.0000", "0.1235"]
    assert [cell.text for cell in shown(["3", "-10"])] == ["3", "−10"]
    assert [cell.text for cell in shown(["2.4126", "53.9115", "1673.09", "1.5522e+06", "0"])] == [
        "2.413",
        "53.91",
        "1,673",
        "1,552,200",
        "0.000",
    ]
    assert rounded(float("nan")) == "nan" and rounded(0.00123456) == "0.001235"


def test_captions_are_of_the_longest_key_that_fits() -> None:
    assert of_figure("layers-vit").title == "What each layer of vit keeps"
    assert of_figure("layers-vit-depth").title.startswith("What is kept along the depth of vit")
    assert "95 % intervals" in of_table("layers-vit-summary") and of_table("unknown") == ""
    names = ["z10", "z9", "featinv", "layers-vit-depth", "layers-vit", "figureA1", "figure13", "figure2"]
    assert ordered(names) == [
        "figure2",
        "figure13",
        "figureA1",
        "layers-vit",
        "layers-vit-depth",
        "featinv",
        "z9",
        "z10",
    ]
    assert "{" not in "".join(of_figure("layers-vit-depth")) and FILE.is_file()
