"""A rebuild is the same, within the spread over seeds, or neither, and says which."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from featspace.cli import main
from featspace.review.spread import Spread, outside, read_metrics

METRICS = {
    "clip": {
        "photo": {
            "cosine": {"median": 0.95, "median_low": 0.9, "median_high": 0.99},
            "judge_top1_agrees": {"share": 0.5, "share_low": 0.25, "share_high": 0.75},
            "distance": {"median": 120.5},
            "images": 16,
        }
    }
}


def changed(**values: float | int) -> dict:
    """METRICS with another `cosine`, `share`, `distance` or number of `images`."""
    tree = copy.deepcopy(METRICS)
    photo = tree["clip"]["photo"]
    for name, value in values.items():
        if name == "images":
            photo["images"] = value
        elif name == "share":
            photo["judge_top1_agrees"]["share"] = value
        else:
            photo[name]["median"] = value
    return tree


def write(path: Path | str, tree: dict) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(tree))


def git(*words: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True, capture_output=True)


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository with metrics, a picture and a spread of 0.01 of the cosine; the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    write("figures/mini/metrics.json", METRICS)
    Path("figures/mini/figure.png").write_bytes(b"drawn")
    deviations = {
        "clip.photo.cosine.median": 0.01,
        "clip.photo.distance.median": 0.0,
        "clip.photo.judge_top1_agrees.share": 0.0,
    }
    write("figures/mini/spread.json", {"seeds": [0, 1, 2, 3, 4], "deviations": deviations})
    Path("params.yaml").write_text("seed: 0\n")
    write("data/mini/weights.json", {})
    Path("data/mini/.gitignore").write_text("/weights.json\n")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "Build")


def said(capsys: pytest.CaptureFixture) -> list[str]:
    main(["reproduced"])
    return capsys.readouterr().out.splitlines()


def refused(capsys: pytest.CaptureFixture, *words: str, status: int = 1) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*words])
    assert ended.value.code == status
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("featspace: error: ")


@pytest.mark.usefixtures("committed")
def test_the_same_bytes(capsys):
    assert said(capsys) == [
        "3 of 3 files of figures/mini have the bytes that are committed",
        "reproduced: byte for byte",
    ]


@pytest.mark.usefixtures("committed")
def test_what_was_not_built_is_not_reproduced(capsys):
    Path("data/mini/weights.json").unlink()
    nothing = "data/mini: not there, so nothing was built here; build it with `make repro`"
    assert refused(capsys, "reproduced") == f"not reproduced: {nothing}"
    Path("figures/mini").rename("figures/paper")
    git("add", "-A")
    git("commit", "-qm", "Build the other")
    assert refused(capsys, "reproduced", "--profile", "paper").endswith("build it with `dvc repro paper`")


@pytest.mark.usefixtures("committed")
def test_another_picture_of_the_same_metrics(capsys):
    Path("figures/mini/figure.png").write_bytes(b"drawn anew")
    last = "reproduced: all metrics are the same; files that differ in bytes: 1, such as figures/mini/figure.png"
    assert said(capsys)[-1] == last


@pytest.mark.usefixtures("committed")
def test_as_near_as_another_seed(capsys):
    # t of 4 degrees of freedom at 97.5 %, by √2 and 0.01, is 0.0393, and a thousandth is added
    write("figures/mini/metrics.json", changed(cosine=0.95 - 0.0402, share=0.5 - 2 / 16))
    assert said(capsys) == [
        "2 of 3 files of figures/mini have the bytes that are committed",
        "6 of 8 numbers of metrics.json are the committed ones",
        "reproduced: within the spread over 5 seeds (±3.9 standard deviations); files that differ in bytes: 1, "
        "as on another processor",
    ]


@pytest.mark.usefixtures("committed")
@pytest.mark.parametrize(
    ("values", "worst"),
    [
        ({"cosine": 0.95 - 0.0404}, "clip.photo.cosine.median is 0.9096, committed 0.95, allowed ±0.0403"),
        ({"share": 0.5 - 3 / 16}, "clip.photo.judge_top1_agrees.share is 0.3125, committed 0.5, allowed ±0.126"),
        ({"distance": 121.0}, "clip.photo.distance.median is 121.0, committed 120.5, allowed ±0.12"),
        ({"images": 15}, "clip.photo.images is 15, committed 16, allowed ±0"),
    ],
)
def test_farther_than_another_seed(capsys, values, worst):
    write("figures/mini/metrics.json", changed(**values))
    line = refused(capsys, "reproduced")
    assert line.startswith("not reproduced: 1 metric lies outside of the spread over 5 seeds")
    assert line.endswith(worst)


@pytest.mark.usefixtures("committed")
def test_the_farthest_are_named_first(capsys):
    write("figures/mini/metrics.json", changed(cosine=0.8, distance=400.0))
    assert ": clip.photo.distance.median is 400.0" in (line := refused(capsys, "reproduced"))
    assert "; clip.photo.cosine.median is 0.8" in line


@pytest.mark.usefixtures("committed")
def test_without_a_spread_other_metrics_are_not_judged(capsys):
    Path("figures/mini/spread.json").unlink()
    assert refused(capsys, "reproduced") == ("not reproduced: figures/mini/spread.json is missing, of 1 such files")
    git("commit", "-qam", "Remove the spread")
    assert said(capsys)[-1] == "reproduced: byte for byte"
    write("figures/mini/metrics.json", changed(cosine=0.951))
    assert refused(capsys, "reproduced") == (
        "figures/mini/spread.json: not there, so it is not known by how much seeds differ; "
        "make it with `featspace spread` (docs/reproducibility.md)"
    )
    Path("figures/mini/spread.json").write_text("{}")
    assert refused(capsys, "reproduced").startswith("figures/mini/spread.json: cannot be read")


@pytest.mark.usefixtures("committed")
def test_other_sources_are_not_judged(capsys):
    write("figures/mini/metrics.json", changed(cosine=0.1))
    Path("params.yaml").write_text("seed: 1\n")
    assert said(capsys) == ["not compared with what is committed: params.yaml changed since"]


@pytest.mark.usefixtures("committed")
def test_where_nothing_is_committed(capsys, tmp_path, monkeypatch):
    main(["reproduced", "--profile", "paper"])
    assert capsys.readouterr().out == "nothing to compare with: no figures/paper is committed here\n"
    (tmp_path / ".git").rename(tmp_path / "elsewhere")
    assert said(capsys) == ["nothing to compare with: no figures/mini is committed here"]
    (tmp_path / "elsewhere").rename(tmp_path / ".git")
    monkeypatch.setenv("PATH", "")
    assert said(capsys) == ["nothing to compare with: no figures/mini is committed here"]


def test_the_spread_is_the_standard_deviation_over_seeds(tmp_path):
    cosines = [0.95, 0.96, 0.94, 0.97]
    for seed, cosine in enumerate(cosines):
        write(tmp_path / f"{seed}.json", changed(cosine=cosine))
    paths = [str(tmp_path / f"{seed}.json") for seed in (2, 0, 1, 3)]
    main(["spread", *paths, "--out", str(tmp_path / "spread.json")])
    written = json.loads((tmp_path / "spread.json").read_text())
    assert written["seeds"] == [0, 1, 2, 3]
    assert written["deviations"] == {
        "clip.photo.cosine.median": float(f"{np.std(cosines, ddof=1):.3g}"),
        "clip.photo.distance.median": 0.0,
        "clip.photo.judge_top1_agrees.share": 0.0,
    }


def test_builds_that_do_not_go_together_are_refused(tmp_path, capsys):
    out = ["--out", str(tmp_path / "spread.json")]
    for seed, images in ((0, 16), (1, 16), (2, 15)):
        write(tmp_path / f"{seed}.json", changed(images=images))
    paths = [str(tmp_path / f"{seed}.json") for seed in range(3)]
    assert "differ in clip.photo.images, which no seed changes" in refused(capsys, "spread", *paths, *out)
    assert "at least three" in refused(capsys, "spread", *paths[:2], *out, status=2)
    write(tmp_path / "metrics.json", METRICS)
    assert "name the metrics of each" in refused(capsys, "spread", str(tmp_path / "metrics.json"), *out, status=2)
    (tmp_path / "2.json").write_text("cut")
    assert "2.json: cannot be read" in refused(capsys, "spread", *paths, *out)
    assert not (tmp_path / "spread.json").exists()


def test_builds_of_other_seeds_are_seldom_outside(tmp_path):
    """Of 60 metrics that vary alike, with a spread over five seeds, 5 % at most by design."""
    rng = np.random.default_rng(0)

    def build() -> dict[str, float]:
        return dict(zip(map(str, range(60)), 0.5 + 0.1 * rng.standard_normal(60), strict=True))

    found = 0
    for _ in range(200):
        seeds = [build() for _ in range(5)]
        deviations = {name: float(np.std([seed[name] for seed in seeds], ddof=1)) for name in seeds[0]}
        found += bool(outside(build(), build(), Spread(seeds=[0, 1, 2, 3, 4], deviations=deviations)))
    assert found / 200 < 0.09


def test_metrics_are_named_by_their_paths(tmp_path):
    write(tmp_path / "metrics.json", METRICS)
    assert read_metrics(tmp_path / "metrics.json")["clip.photo.cosine.median"] == 0.95
