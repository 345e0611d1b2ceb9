"""The benchmark: what it counts and measures, and the methods that it compares, on a prior with closed forms."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from test_fast import BARS, gaussian_noise, painted
from test_guidance import noise_of
from toy_models import DTYPE

from featspace.baselines import METHODS, Problem
from featspace.bench import PASSES, Counted, Job
from featspace.bench_summary import against_published, at_best_weight, describe, summarize, tuned, weights_tried
from featspace.cli import main
from featspace.encoders import load_encoder
from featspace.images import read_image, to_tensor


def match(target: torch.Tensor):
    return lambda images: (images - target).square().flatten(1).sum(1)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"best_of"}))
def test_every_method_is_brought_nearer_by_its_weight(name):
    target = torch.zeros(1, 3, 8, 8, dtype=DTYPE)

    def nearest(weight):
        method = METHODS[name][0]
        distance = match(target)
        problem = Problem(gaussian_noise, painted, distance, noise_of(1), BARS)
        method(problem, 24, weight)
        assert problem.distances == distance(problem.images)
        return problem.distances

    assert min(nearest(weight) for weight in METHODS[name][1]) < 0.8 * nearest(0.0)


def test_the_best_of_more_samples_is_nearer():
    target = torch.zeros(1, 3, 8, 8, dtype=DTYPE)

    def nearest(count):
        distance = match(target)
        problem = Problem(gaussian_noise, painted, distance, noise_of(1), BARS)
        METHODS["best_of"][0](problem, count, 0.0)
        return problem.distances

    assert nearest(8) < nearest(1)


def test_passes_are_counted_forward_and_backward():
    doubled = Counted(lambda x: 2 * x)
    doubled(torch.ones(3, 1))
    x = torch.ones(2, 1, requires_grad=True)
    torch.autograd.grad(doubled(x).sum(), x)
    assert (doubled.forward, doubled.backward) == (5, 2)


def test_a_bench_counts_measures_and_goes_on(tmp_path, offline, capsys):
    main(["targets", "--out", str(tmp_path / "targets")])
    only = [word for method in ("fast", "paper", "mpgd") for word in ("--only", method)]
    given = ["bench", "--targets", str(tmp_path / "targets"), "--out", str(tmp_path / "out"), "--photos", "1"]
    main([*given, "--budget", "6", "--curve", "3", "--samples", "2", *only])
    images = pd.read_csv(tmp_path / "out" / "images.csv")
    encoders, samples = 2, 2
    others = sum(len(METHODS[method][1]) - 1 for method in ("paper", "mpgd"))  # weights that one sample sufficed for
    assert len(images) == encoders * (3 * samples + others)
    passes = images.groupby("method")[list(PASSES)].mean().astype(int)
    assert passes.loc["fast"].tolist()[:4] == [3, 3, 4, 3]  # the last latent is decoded once more
    assert passes.loc["mpgd"].tolist() == [6, 0, 6, 6, 6, 6]
    evaluations = passes.loc["paper", "unet_forward"]
    assert passes.loc["paper"].tolist()[1:4] == [evaluations, 2 * evaluations + 1, evaluations]
    row = images.query("method == 'fast' and encoder == 'resnet' and sample == 1").iloc[0]
    encoder = load_encoder("data/models/resnet")
    seen, target = (
        encoder(to_tensor(read_image(path))[None])
        for path in (tmp_path / f"out/fast-3-0/resnet/{row.id}-1.png", tmp_path / f"targets/{row.id}.png")
    )
    assert row.distance == pytest.approx((seen - target).square().sum().item(), rel=1e-4)
    assert row.diversity > 0 and row.error > 0
    written = (tmp_path / "out" / "images.csv").read_bytes()
    main([*given, "--budget", "6", "--curve", "3", "--samples", "2", *only])
    assert (tmp_path / "out" / "images.csv").read_bytes() == written  # with its times: nothing was decoded again
    assert (tmp_path / "out" / "bench.png").exists() and "| mpgd | 6 |" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(SystemExit) as stop:
        main([*given, "--only", "mgpd"])
    assert stop.value.code == 2 and "no method mgpd; did you mean mpgd?" in capsys.readouterr().err


def test_each_method_is_summarized_at_its_best_weight():
    base = {"encoder": "net", "distance_jpeg": 2.0, "judge_cosine": 0.5, "top1_agrees": None, "judge_top1_agrees": 1}
    base |= {"error": 1.0, "diversity": 0.1, "seconds": 1.0, "device": "a CPU"} | dict.fromkeys(PASSES, 4)
    base |= {"method": "a", "evaluations": 4, "sample": 0, "cosine": 0.9}
    rows = [
        base | {"weight": weight, "id": id, "distance": distance, "cosine": 1 - distance / 10}
        for weight, distances in ((0.1, (4.0, 6.0, 8.0)), (0.2, (1.0, 1.5, 9.0)))
        for id, distance in zip("xyz", distances, strict=True)
    ]
    rows[-1] |= {"top1_agrees": 1.0}  # of an encoder that classifies, the others do not
    jobs = [Job("a", 4, 0.1), Job("a", 4, 0.2), Job("b", 4, 0.0), Job("b", 8, 0.0)]
    assert tuned(jobs, pd.DataFrame(rows)) == jobs[1:]
    images = at_best_weight(pd.DataFrame(rows))
    table = summarize(images)
    assert table[["method", "weight", "images"]].to_numpy().tolist() == [["a", 0.2, 3]]
    assert table.loc[0, ["ratio", "ratio_worst", "nearer_than_jpeg_75"]].tolist() == pytest.approx([0.75, 4.5, 2 / 3])
    cosines = [f"cosine{end}" for end in ("", "_mean", "_worst", "_low", "_high")]
    assert table.loc[0, cosines].tolist() == pytest.approx([0.85, 1 - 1.15 / 3, 0.1, 0.1, 0.9])
    assert table.loc[0, ["top1_agrees", "judge_top1_agrees"]].tolist() == [1, 1]
    text = describe(table, images)
    assert "| a | 4 | 0.2 | 3 | 0.75 [" in text and "The published 12,960 evaluations are not among them" in text
    rows[4]["distance"] = 7.0  # decoded again, with one more: 0.1 would be the better one
    rows.append(base | {"weight": 0.2, "id": "y", "sample": 1, "distance": 7.0})
    assert at_best_weight(pd.DataFrame(rows))["weight"].tolist() == [0.2] * 4
    assert weights_tried(pd.DataFrame(rows))[["weight", "images"]].to_numpy().tolist() == [[0.1, 3], [0.2, 3]]


def test_fast_is_compared_with_the_published_schedule_pair_by_pair():
    """Seeds of a pair count as one; what only one of the two has does not count."""
    columns = ["method", "evaluations", "encoder", "id", "judge_cosine", "error"]
    rows = [("paper", 12960, "net", id, judge, 1.0) for id, judge in (("x", 0.5), ("y", 0.9), ("z", 0.0))]
    rows += [("fast", 8, "net", "x", judge, 2.0) for judge in (0.6, 0.8, 1.0)]
    rows += [("fast", 8, "net", "y", 0.8, 1.5), ("fast", 8, "other", "x", 0.0, 9.0), ("paper", 8, "net", "x", 0.0, 9.0)]
    (row,) = against_published(pd.DataFrame(rows, columns=columns)).to_dict("records")
    wanted = {"judge_cosine": 0.1, "judge_cosine_low": -0.1, "judge_cosine_high": 0.3}
    wanted |= {"error": 0.75, "error_low": 0.5, "error_high": 1.0}
    assert row == pytest.approx({"evaluations": 8, "pairs": 2} | wanted)
    assert against_published(pd.DataFrame(rows[:3], columns=columns)).empty
