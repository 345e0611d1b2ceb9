"""What `import featspace` gives, and that it works where there is no checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import featspace
from featspace.cli import main

PROJECT = Path(__file__).parents[1]


def test_what_is_public_is_imported_when_it_is_asked_for():
    code = "import featspace, sys; print({'torch', 'diffusers', 'timm'} & {*sys.modules}, sorted(featspace.__all__))"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    names = ["FeatInvPipeline", "FeatureDecodingPipeline", "__version__", "decode", "load_encoder"]
    assert shown == f"set() {names}\n"
    assert all(hasattr(featspace, name) for name in names) and featspace.__version__ == version("featspace")
    with pytest.raises(AttributeError, match="has no attribute 'encode'"):
        featspace.encode  # noqa: B018


def test_the_core_does_not_import_the_pipelines_tools():
    modules = "featspace.cli, featspace.pipelines.decode, featspace.stages.decode, featspace.benchmark.run"
    code = f"import {modules}, sys; print({{'dvc', 'snakemake'}} & {{*sys.modules}})"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert shown == "set()\n"


def test_a_missing_extra_is_named(project, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.delitem(sys.modules, "featspace.stages.featinv.train", raising=False)
    with pytest.raises(SystemExit) as stop:
        main(["featinv", "train", "--controlnet", "maps", "--out", "out"])
    assert stop.value.code == 1
    assert capsys.readouterr().err.strip() == (
        "featspace: error: accelerate is not installed: pip install 'featspace[train]'"
    )


@pytest.mark.usefixtures("offline")
def test_decode_takes_a_file_an_image_or_a_feature(project):
    options = {"prior": "data/models/prior", "num_inference_steps": 3, "samples": 2, "seed": 4, "output_type": "np"}
    encoder = featspace.load_encoder("data/models/resnet")
    found = featspace.decode("photo.jpg", "data/models/resnet", **options)
    assert found.images.shape == (2, 64, 64, 3) and not np.array_equal(*found.images)
    image = Image.open("photo.jpg")
    pipeline = featspace.FeatureDecodingPipeline.from_pretrained("data/models/prior", dtype=torch.float32)
    feature = pipeline.features(image, encoder)
    for target in (image, feature[0]):
        again = featspace.decode(target, encoder, **options)
        np.testing.assert_allclose(again.distances, found.distances, rtol=1e-3)
    mapped = featspace.decode("photo.jpg", "data/models/resnet", layer="layer1", **options)
    assert mapped.distances.shape == (2,)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The package as it is installed from its wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=PROJECT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_has_its_types_its_defaults_and_no_training(wheel):
    files = {path.relative_to(wheel / "featspace").as_posix() for path in (wheel / "featspace").rglob("*.*")}
    assert {"py.typed", "params.yaml", "data/weights.lock", "data/paper_photos.sha256"} <= files
    assert not [path for path in wheel.rglob("*") if "training" in path.parts]
    assert (wheel / "featspace/params.yaml").read_bytes() == (PROJECT / "params.yaml").read_bytes()


def test_it_works_outside_a_checkout(wheel, tmp_path):
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "photo.png")
    command = "from featspace.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(wheel), "HF_HUB_OFFLINE": "1"}

    def run(*arguments: str) -> subprocess.CompletedProcess:
        call = [sys.executable, "-c", command, *arguments]
        return subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True)

    decode = ["decode", "photo.png", "--encoder", "timm:resnet18", "--out", "out"]
    planned = run(*decode, "--dry-run", "--preset", "fast", "--evaluations", "16")
    assert planned.returncode == 0 and "evaluations  16 an image" in planned.stdout, planned.stderr
    missing = run(*decode, "--profile", "mini")
    assert missing.returncode in (1, 2) and len(missing.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "photo.png"]
