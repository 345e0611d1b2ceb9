"""Bootstrap intervals and the metrics: values in closed form, invariants, stable bytes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from featspace.metrics.bootstrap import bootstrap_interval
from featspace.stages.metrics import run_metrics
from featspace.utils.errors import FeatspaceError

SIMILARITY = "encoder,id,sample,kind,image,distance,cosine,judge_cosine,top1_agrees,judge_top1_agrees\n"
REFERENCES = "encoder,id,reference,distance,cosine\n"


@pytest.fixture
def tables(tmp_path):
    """One encoder with a photograph and a caption, one with nine photographs at random distances."""
    (tmp_path / "mean.csv").write_text(
        SIMILARITY
        + "mean,red,0,photo,best,0.04,0.980581,0.7,1,\n"
        + "mean,red,0,photo,last,2,0,0,0,\n"
        + "mean,sky,0,caption,best,0.64,1,,,\n"
    )
    (tmp_path / "mean-references.csv").write_text(
        REFERENCES
        + "mean,red,nearest_photo,0.25,0.9\nmean,red,jpeg_75,0.04,0.99\n"
        + "mean,sky,nearest_photo,1.25,0.1\n"
    )
    rng = np.random.default_rng(0)
    rows, scale = [], []
    for id in range(9):
        for sample, distance in enumerate(rng.uniform(1, 3, size=2)):
            rows.append(f"vit,{id},{sample},photo,best,{distance},{1 - distance / 10},0.5,1,{sample}\n")
            rows.append(f"vit,{id},{sample},photo,last,99,0,0,0,0\n")
        scale.append(f"vit,{id},nearest_photo,2,0.6\n")
    (tmp_path / "vit.csv").write_text(SIMILARITY + "".join(rows))
    (tmp_path / "vit-references.csv").write_text(REFERENCES + "".join(scale))
    return [[tmp_path / f"{name}{kind}.csv" for name in ("vit", "mean")] for kind in ("", "-references")]


def test_bootstrap_interval_contains_the_statistic_and_shrinks_with_targets():
    values = np.random.default_rng(1).normal(size=400)
    few = {str(i): [value] for i, value in enumerate(values[:20])}
    many = {str(i): [value] for i, value in enumerate(values)}
    for statistic in (np.median, np.mean):
        intervals = [bootstrap_interval(group, statistic, resamples=500) for group in (few, many)]
        for (low, high), group in zip(intervals, (few, many), strict=True):
            assert low < statistic(np.concatenate(list(group.values()))) < high
        assert np.diff(intervals[1]) < 0.5 * np.diff(intervals[0])
    normal = 1.96 * np.std(values) / np.sqrt(400)  # half the interval of a mean, as theory has it
    assert np.diff(bootstrap_interval(many, np.mean)) == pytest.approx(2 * normal, rel=0.1)


def test_bootstrap_interval_is_deterministic():
    few = {str(i): [value] for i, value in enumerate(np.random.default_rng(2).normal(size=10))}
    assert bootstrap_interval(few) == bootstrap_interval(few)
    assert bootstrap_interval(few, np.mean, seed=1) != bootstrap_interval(few, np.mean)


def test_bootstrap_keeps_the_samples_of_a_target_together():
    assert bootstrap_interval({"a": [0.0, 2.0, 7.0]}) == (2.0, 2.0)
    once = {"a": [1.0], "b": [2.0], "c": [4.0]}
    assert bootstrap_interval({id: value * 10 for id, value in once.items()}) == bootstrap_interval(once)
    # the mean of two targets drawn of {0, 1} is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4
    assert bootstrap_interval({"a": [0.0], "b": [1.0]}, np.mean, level=0.6) == (0.0, 1.0)
    assert bootstrap_interval({"a": [0.0], "b": [1.0]}, np.mean, level=0.4) == (0.5, 0.5)


def test_bootstrap_needs_a_target():
    with pytest.raises(FeatspaceError, match="no target"):
        bootstrap_interval({})


def test_metrics_of_one_target_in_closed_form(tables, tmp_path):
    run_metrics(*tables, tmp_path / "metrics.json", resamples=50)
    tree = json.loads((tmp_path / "metrics.json").read_text())["mean"]

    def point(key, value):  # one target: the interval is a point
        return {key: value, f"{key}_low": value, f"{key}_high": value}

    assert tree["photo"] == {
        "targets": 1,
        "images": 1,
        "cosine": point("median", 0.980581) | point("mean", 0.980581),
        "distance": point("median", 0.04) | point("mean", 0.04),
        "judge_cosine": point("median", 0.7) | point("mean", 0.7),
        "top1_agrees": point("share", 1),  # and no judge_top1_agrees: it has no classifier
        "references": {
            "nearest_photo": {"distance": 0.25, "cosine": 0.9} | point("share_nearer", 1),
            "jpeg_75": {"distance": 0.04, "cosine": 0.99} | point("share_nearer", 0),  # as near, not nearer
        },
    }
    assert tree["caption"] == {
        "targets": 1,
        "images": 1,
        "cosine": point("median", 1) | point("mean", 1),
        "distance": point("median", 0.64) | point("mean", 0.64),
        "references": {"nearest_photo": {"distance": 1.25, "cosine": 0.1} | point("share_nearer", 1)},
    }


def test_metrics_over_targets_and_samples(tables, tmp_path):
    run_metrics(*tables, tmp_path / "metrics.json")
    photo = json.loads((tmp_path / "metrics.json").read_text())["vit"]["photo"]
    lines = [line.split(",") for line in tables[0][0].read_text().splitlines()]
    distances = np.array([float(line[5]) for line in lines if line[4] == "best"])
    assert (photo["targets"], photo["images"]) == (9, 18)
    by_target = {str(index): pair for index, pair in enumerate(distances.reshape(9, 2))}
    low, high = bootstrap_interval(by_target)
    expected = {"median": np.median(distances), "median_low": low, "median_high": high}
    assert expected.items() <= {key: pytest.approx(value, rel=1e-5) for key, value in photo["distance"].items()}.items()
    assert photo["distance"]["mean_low"] < np.mean(distances) < photo["distance"]["mean_high"]
    assert photo["cosine"]["mean"] == pytest.approx(1 - np.mean(distances) / 10, rel=1e-5)
    nearest = photo["references"]["nearest_photo"]
    assert nearest["share_nearer"] == pytest.approx(np.mean(distances < 2), rel=1e-5)
    assert photo["judge_top1_agrees"] == {"share": 0.5, "share_low": 0.5, "share_high": 0.5}


def test_metrics_have_stable_bytes(tables, tmp_path):
    run_metrics(*tables, tmp_path / "metrics.json", resamples=50)
    run_metrics(*(reversed(paths) for paths in tables), tmp_path / "again.json", resamples=50)
    text = (tmp_path / "metrics.json").read_text()
    assert (tmp_path / "again.json").read_text() == text
    tree = json.loads(text, parse_float=lambda number: float(number) if len(number) <= 12 else None)
    assert text == json.dumps(tree, indent=2, sort_keys=True) + "\n"  # sorted, and no long number


def test_metrics_need_a_reference_for_every_target(tables, tmp_path):
    lines = tables[1][1].read_text().splitlines(keepends=True)
    tables[1][1].write_text("".join(line for line in lines if "red" not in line))
    with pytest.raises(FeatspaceError, match="mean-references.csv: no reference of 'mean' for target 'red'"):
        run_metrics(*tables, tmp_path / "metrics.json")
    assert not (tmp_path / "metrics.json").exists()
