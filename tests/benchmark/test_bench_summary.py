"""The benchmark in tables: weights chosen, methods compared, numbers described."""

from __future__ import annotations

import pandas as pd
import pytest

from featspace.benchmark.methods import AUTOENCODER, METHODS
from featspace.benchmark.summary import chosen_weights, compare, describe, summarize, tried


def rows(method="a", weight=0.0, encoder="net", evaluations=8, sample=0, **cosines) -> list[dict]:
    base = {"method": method, "weight": weight, "encoder": encoder, "evaluations": evaluations, "sample": sample}
    base |= {"tuned_on": "net", "judge_cosine": 0.5, "judge_top1": 1, "judge_top5": 1, "error": 1.0, "seconds": 2.0}
    base |= {"device": "a CPU", "identity": "x"}
    return [base | {"id": id, "cosine": x, "distance": 1 - x, "ratio": 2 * (1 - x)} for id, x in cosines.items()]


def test_the_weight_of_the_greatest_median_cosine_is_chosen():
    low = rows(weight=0.1, x=0.9, y=0.5, z=0.4)  # the greatest mean, and the greatest cosine
    high = rows(weight=0.2, x=0.6, y=0.6, z=0.0)
    table = pd.DataFrame(low + high + rows("b", x=0.1) + rows(weight=0.2, sample=1, x=0.0, y=0.0, z=0.0))
    assert chosen_weights(table) == {"a": 0.2, "b": 0.0}
    assert tried(table)[["weight", "images", "cosine_median"]].to_numpy().tolist() == [[0.1, 3, 0.5], [0.2, 3, 0.6]]
    same = pd.DataFrame(rows(weight=0.2, x=0.5) + rows(weight=0.1, x=0.5))
    assert chosen_weights(same) == {"a": 0.1}


def test_methods_are_compared_on_the_images_that_all_of_them_decoded():
    table = rows(weight=0.1, x=0.2) + rows(weight=0.2, x=0.8, y=0.6) + rows("fast", evaluations=4, x=0.0)
    table += (
        rows("fast", x=0.9, y=0.7, z=0.1)
        + rows("fast", sample=1, x=0.1)
        + rows(AUTOENCODER, 0.0, "net", 0, x=0.7, y=0.8)
    )
    found = compare(pd.DataFrame(table)).set_index("method")
    assert found["images"].tolist() == [2, 2, 2] and found["evaluations"].to_dict() == {
        "a": 8,
        "fast": 8,
        AUTOENCODER: 0,
    }
    assert found.loc["fast", ["cosine_median", "cosine_worst", "cosine_low", "cosine_high"]].tolist() == pytest.approx(
        [0.8, 0.7, 0.7, 0.9]
    )
    assert found["weights"].to_dict() == {"a": "0.1 0.2", "fast": "", AUTOENCODER: ""}
    assert found.loc["a", ["weight", "ratio_median"]].tolist() == pytest.approx([0.2, 0.6])
    budgets = summarize(pd.DataFrame(table).query("method == 'fast'"))
    assert budgets[["evaluations", "photographs", "images"]].to_numpy().tolist() == [[4, 1, 1], [8, 3, 4]]


def test_intervals_are_over_photographs_not_over_their_samples():
    same = [row for sample in range(9) for row in rows(sample=sample, x=0.2, y=0.4)]
    (once,), (often,) = (summarize(pd.DataFrame(x)).to_dict("records") for x in (rows(x=0.2, y=0.4), same))
    assert [often["cosine_low"], often["cosine_high"]] == pytest.approx([once["cosine_low"], once["cosine_high"]])
    assert (often["photographs"], often["images"]) == (2, 18)


def test_the_description_is_of_what_the_table_holds():
    images = pd.DataFrame(rows(weight=0.1, x=0.2) + rows(weight=0.2, x=0.8) + rows("c", encoder="other", x=0.5))
    text = describe(compare(images), images)
    assert "## net\n" in text and "## other (weights chosen on net)\n" in text
    assert "| a | 8 | 0.2 | 0.1 0.2 | 1 × 1 | 0.800 | 0.800 | 0.800 [0.800, 0.800] | 0.4 |" in text
    assert not [name for name in (*METHODS, AUTOENCODER) if f"| {name} " in text or f"`{name}`" in text]
    nothing = images.assign(judge_top1=float("nan"), judge_top5=float("nan"))
    assert "nan" not in describe(compare(nothing), nothing)
