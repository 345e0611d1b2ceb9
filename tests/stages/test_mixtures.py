"""Features between targets and of classes: the arc, the classifier's rows, and the commands from end to end."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML

from featspace.cli import main
from featspace.data.features import read_features
from featspace.data.references import read_references
from featspace.encoders.encoder import load_encoder
from featspace.metrics.similarity import cosine_similarity
from featspace.stages.mixtures import between
from featspace.utils.errors import FeatspaceError
from featspace.utils.tables import MIXED, read_table


def test_the_way_between_two_features_is_even_in_angle_and_length() -> None:
    a, b = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    way = [between(a, b, share) for share in (0.0, 0.25, 0.5, 1.0)]
    torch.testing.assert_close(way[0], a)
    torch.testing.assert_close(way[-1], b, atol=1e-6, rtol=0)
    degrees = [torch.rad2deg(torch.arccos(cosine_similarity(a, point))).item() for point in way]
    assert degrees == pytest.approx([0, 22.5, 45, 90], abs=1e-4)
    assert [point.norm().item() for point in way] == pytest.approx([3, 2.5, 2, 1])
    torch.testing.assert_close(between(a, 2 * a, 0.5), 1.5 * a)  # along one direction


def test_the_rows_of_the_classifier_are_the_gradients_of_its_logits(project: Path) -> None:
    encoder = load_encoder("data/models/resnet", project)
    weights, images = encoder.class_weights(), torch.rand(3, 3, 64, 64)
    assert weights.shape == (5, encoder.dim)
    rest = encoder.classify(images) - encoder.pooled(images) @ weights.T  # the bias, the same for every image
    torch.testing.assert_close(rest, rest[:1].expand(3, -1), atol=1e-4, rtol=1e-4)
    with pytest.raises(FeatspaceError, match="has no classifier"):
        load_encoder("data/models/clip", project).class_weights()


@pytest.fixture
def params(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A parameter file beside the project's, with mixtures."""
    monkeypatch.chdir(project)
    values = YAML(typ="safe").load(Path("params.yaml"))
    values["mini"]["mixtures"] = {
        "resnet": {"between": [["cat", "cup"]], "at": [0.5], "classes": {"tabby": 1}},
        "clip": {"between": [["tabby", "cat"]], "at": [0.5]},
    }
    file = project / "mixtures.yaml"
    YAML(typ="safe").dump(values, file)
    return file


def given(encoder: str, tmp_path: Path, params: Path) -> list[str]:
    common = ["--encoder", encoder, "--targets", str(tmp_path / "targets"), "--params", str(params)]
    return [*common, "--features", str(tmp_path / f"{encoder}.safetensors")]


def test_what_mixed_features_decode_to_is_measured_against_both_ends(tmp_path: Path, params: Path) -> None:
    main(["targets", "--out", str(tmp_path / "targets"), "--params", str(params)])
    common = given("resnet", tmp_path, params)
    main(["features", *common[:6], "--out", common[-1]])
    main(["decode", common[-1], "--encoder", "resnet", "--out", str(tmp_path / "decoded")])
    mixed = tmp_path / "mixed.safetensors"
    main(["mix", *common, "--out", str(mixed)])
    features, targets = read_features(mixed)[0], read_features(Path(common[-1]))[0]
    assert set(features) == {"cat_to_cup_50", "prototype_tabby"}  # the references say no class
    torch.testing.assert_close(features["cat_to_cup_50"], between(targets["cat"], targets["cup"], 0.5))
    lengths = torch.stack([targets["cat"], targets["cup"]]).norm(dim=1)
    assert features["prototype_tabby"].norm().item() == pytest.approx(lengths.median().item(), rel=1e-5)
    main(["decode", str(mixed), "--encoder", "resnet", "--samples", "1", "--out", str(tmp_path / "images")])
    folders = ["--decoded", str(tmp_path / "decoded"), "--mixtures", str(tmp_path / "images"), "--mixed", str(mixed)]
    main(["mixtures", *common, *folders, "--out", str(tmp_path / "mixtures.csv")])
    table = read_table(tmp_path / "mixtures.csv", MIXED).set_index("id")
    assert sorted(table.loc[table["kind"] == "between", "share"]) == [0, 0.5, 1]
    decoded = pd.read_csv(tmp_path / "decoded" / "decoded.csv").query("sample == 0").set_index("id")["cosine"]
    assert table.loc["cat", "cosine"] == table.loc["cat", "cosine_first"] == pytest.approx(decoded["cat"], rel=1e-4)
    assert table.loc["cup", "cosine"] == table.loc["cup", "cosine_second"] == pytest.approx(decoded["cup"], rel=1e-4)
    ends = cosine_similarity(targets["cat"], targets["cup"]).item()
    assert table.loc["cat_to_cup_50", "cosine_ends"] == pytest.approx(ends, rel=1e-4)
    assert table["judge_top5"].notna().tolist() == [kind == "prototype" for kind in table["kind"]]


BAD = {
    "target": ({"between": [["cat", "dog"]]}, "mixtures.between names dog, of which there is no feature"),
    "class": ({"classes": {"tabby": 5}}, "mixtures.classes.tabby is 5: the classifier has 5 classes, from 0"),
    "nothing": ({}, "mixtures: neither between nor classes names anything"),
}


@pytest.mark.parametrize("case", BAD)
def test_mixtures_that_there_cannot_be(case: str, tmp_path: Path, params: Path, capsys) -> None:
    values = YAML(typ="safe").load(params)
    values["mini"]["mixtures"]["resnet"] = BAD[case][0]
    YAML(typ="safe").dump(values, params)
    common = given("resnet", tmp_path, params)
    main(["targets", "--out", str(tmp_path / "targets"), "--params", str(params)])
    main(["features", *common[:6], "--out", common[-1]])
    with pytest.raises(SystemExit):
        main(["mix", *common, "--out", str(tmp_path / "mixed.safetensors")])
    assert BAD[case][1] in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.glob("mixed*"))


def test_the_class_of_a_reference_is_read_and_its_mean_taken() -> None:
    root = Path(__file__).parents[2] / "data" / "models" / "references"
    references = read_references(root / "vit.safetensors", 192)
    assert references.classes is not None and len(references.classes) == len(references.features) == 1250
    counts = pd.Series(references.classes).value_counts()
    assert len(counts) == 50 and set(counts) == {25}
    own = [index for index, name in enumerate(references.classes) if name == "lion"]
    torch.testing.assert_close(references.mean("lion"), references.features[own].mean(0))
    with pytest.raises(KeyError):
        references.mean("dragon")
    with pytest.raises(FeatspaceError, match="holds no `features` of shape"):
        read_references(root / "vit.safetensors", 191)
