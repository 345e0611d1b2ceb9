"""Whatever goes wrong is one line that says what and where, an exit status, and nothing half-written."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from featspace.cli import main
from featspace.stages import decode as decoding

pytestmark = pytest.mark.usefixtures("offline")

FAILURES = {
    "a text file": (["decode", "params.yaml", "--encoder", "resnet"], 1, "params.yaml: not an image"),
    "no such file": (["decode", "no.jpg", "--encoder", "resnet"], 1, "no.jpg: no such file"),
    "a cut-off image": (["decode", "cut.jpg", "--encoder", "resnet"], 1, "cut.jpg: the image is damaged"),
    "a tiny image": (["decode", "tiny.png", "--encoder", "resnet"], 1, "tiny.png: 7x9 pixels"),
    "unknown encoder": (["decode", "photo.jpg", "--encoder", "resnt"], 2, "did you mean resnet?"),
    "steps out of range": (["decode", "photo.jpg", "--encoder", "resnet", "--steps", "1"], 2, "steps is 1"),
    "negative weight": (
        ["decode", "photo.jpg", "--encoder", "resnet", "--weight", "-1"],
        2,
        "guidance_weight is -1",
    ),
    "no text tower": (["decode", "--text", "a cat", "--encoder", "resnet"], 1, "has no text tower"),
    "nothing to decode": (["decode", "--encoder", "resnet"], 2, "nothing to decode"),
    "unknown option": (["decode", "photo.jpg", "--encoder", "resnet", "--fast"], 2, "--fast"),
    "unknown profile": (["decode", "photo.jpg", "--encoder", "resnet", "--profile", "maxi"], 2, "maxi"),
    "another encoder's features": (
        ["decode", "wrong.safetensors", "--encoder", "resnet"],
        1,
        "wrong.safetensors",
    ),
    "a name that leads out of the folder": (["decode", "away.safetensors", "--encoder", "resnet"], 1, "'../x', which"),
    "two of one name": (
        ["decode", "photo.jpg", "Photo.png", "--encoder", "resnet"],
        2,
        "the id photo, after photo.jpg",
    ),
    "an output that is too long": (["decode", "photo.jpg", "--encoder", "resnet", "--out", "x" * 250], 1, "too long"),
    "the current folder": (
        ["decode", "photo.jpg", "--encoder", "resnet", "--out", "."],
        2,
        ".: the folder is not empty",
    ),
    "another resolution": (
        ["decode", "photo.jpg", "--encoder", "resnet", "--params", "large.yaml"],
        2,
        "resolution is 128, but the prior makes images of 64 pixels",
    ),
}
IN_A_DRY_RUN = (
    "no text tower",
    "another encoder's features",
    "two of one name",
    "the current folder",
    "another resolution",
)


@pytest.mark.parametrize("case", FAILURES)
def test_bad_input_is_one_line_and_leaves_nothing(case, tmp_path, capsys, project):
    arguments, status, message = FAILURES[case]
    Image.new("RGB", (32, 32)).save("Photo.png")
    Path("large.yaml").write_text(Path("params.yaml").read_text().replace("resolution: 64", "resolution: 128"))
    save_file({"../x": torch.zeros(3)}, "away.safetensors")
    Path("cut.jpg").write_bytes(Path("photo.jpg").read_bytes()[:5000])
    Image.new("RGB", (7, 9)).save("tiny.png")
    save_file({"x": torch.zeros(3)}, "wrong.safetensors")
    out = [] if "--out" in arguments else ["--out", str(tmp_path / "out")]
    for dry in ([], ["--dry-run"]) if case in IN_A_DRY_RUN else ([],):
        with pytest.raises(SystemExit) as stop:
            main([*arguments, *out, *dry])
        error = capsys.readouterr().err
        line = error.strip().splitlines()[-1]
        assert stop.value.code == status
        assert line.startswith("featspace: error:") and message in line and "Traceback" not in error
        assert list(tmp_path.iterdir()) == [] and not list(project.glob("*x*.unfinished"))


def test_altered_and_missing_and_pickled_weights_are_named(tmp_path, capsys, project):
    weights = project / "data/models/resnet/model.safetensors"
    whole = weights.read_bytes()

    def failing(*what):
        with pytest.raises(SystemExit) as stop:
            main(["decode", "photo.jpg", "--encoder", "resnet", "--out", str(tmp_path / "out")])
        error = capsys.readouterr().err
        assert stop.value.code == 1 and all(part in error for part in what) and "Traceback" not in error
        assert not (tmp_path / "out").exists()

    try:
        weights.write_bytes(whole[:-4] + b"\0\1\0\1")
        failing("model.safetensors", "altered")
        weights.unlink()
        failing("model.safetensors", "missing")
        weights.write_bytes(whole)
        (project / "data/models/resnet/model.bin").write_bytes(b"pickle")
        failing("model.bin")
    finally:
        (project / "data/models/resnet/model.bin").unlink(missing_ok=True)
        weights.write_bytes(whole)


def test_an_interrupted_decoding_leaves_nothing(tmp_path, capsys, monkeypatch, project):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(decoding.Watch, "__call__", interrupt)
    with pytest.raises(SystemExit) as stop:
        main(["decode", "photo.jpg", "--encoder", "resnet", "--out", str(tmp_path / "out")])
    assert stop.value.code == 130 and "interrupted" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_version_is_that_of_the_distribution(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"featspace {version('featspace')}\n"


def test_features_of_another_network_are_refused_though_the_width_agrees(project, tmp_path, capsys):
    main(["targets", "--out", str(tmp_path / "targets")])
    features = str(tmp_path / "features.safetensors")
    main(["features", "--encoder", "resnet", "--targets", str(tmp_path / "targets"), "--out", features])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["decode", features, "--encoder", "data/models/judge", "--out", str(tmp_path / "out")])
    assert stop.value.code == 1 and not (tmp_path / "out").exists()
    assert "features of data/models/resnet, not of " in capsys.readouterr().err.splitlines()[-1]
    for name in ("data/models/resnet", "resnet"):
        main(["decode", features, "--encoder", name, "--samples", "1", "--out", str(tmp_path / name.replace("/", "-"))])


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (["featinv", "decode", "--controlnet", "x", "--out", "o"], "See featspace featinv decode --help"),
        (["decode"], "See featspace decode --help"),
        (
            [
                "decode",
                "photo.jpg",
                "--encoder",
                "clip",
                "--out",
                "o",
                "--preset",
                "fast",
                "--emphasis-recurrences",
                "9",
            ],
            "emphasis_recurrences is of the preset paper, not of fast",
        ),
    ],
)
def test_what_is_wrong_names_its_own_command(project, capsys, command, line):
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2 and line in capsys.readouterr().err
