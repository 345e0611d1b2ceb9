"""The schedule of all trainings on toy photographs: its order, its pauses, and that a killed one loses nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from featspace_training import schedule
from ruamel.yaml import YAML
from safetensors.torch import load_file
from tiny_models import TEXT, UNET, VAE

from featspace.utils.errors import FeatspaceError

ROOT = Path(__file__).parents[2]
WEIGHTS = {
    "vae": "diffusion_pytorch_model.safetensors",
    "vit": "model.safetensors",
    "clip": "open_clip_model.safetensors",
    "prior": "unet/diffusion_pytorch_model.safetensors",
}


@pytest.fixture
def params(tmp_path, toy_teacher) -> Path:
    """A parameter file with a short recipe of every model."""
    speed = {"steps": 6, "batch": 2, "lr": 1e-3, "checkpoint_seconds": 0}
    taught = {"network": toy_teacher, "size": 64, "weight": 0.1}
    vit = {"img_size": 64, "patch_size": 32, "embed_dim": 12, "depth": 1, "num_heads": 3}
    clip = {
        "embed_dim": 8,
        "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 64, "image_size": 64},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
    }
    recipes = {
        "vae": {**speed, "model": VAE, "teacher": taught},
        "vit": {**speed, "architecture": "vit_tiny_patch16_224", "model_args": vit, "teacher": taught},
        "clip": {**speed, "model": clip},
        "prior": {**speed, "unet": UNET, "text": TEXT, "teacher": taught},
    }
    file = tmp_path / "params.yaml"
    YAML().dump(recipes, file)
    return file


def weights(checkpoints: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {name: load_file(checkpoints / name / file) for name, file in WEIGHTS.items()}


def assert_same(a: Path, b: Path) -> None:
    first, second = weights(a), weights(b)
    for name in WEIGHTS:
        assert all(torch.equal(value, second[name][key]) for key, value in first[name].items()), name


def test_pauses_and_a_kill_change_nothing(params, toy_photographs, tmp_path, capsys):
    whole, slices, killed = (tmp_path / name for name in ("whole", "slices", "killed"))
    schedule.run(params, toy_photographs, whole, threads=1)
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said if "0 of 6" in line] == ["vae", "vit", "clip", "prior"]

    pauses = 0
    while not (slices / "prior").is_dir():
        try:
            schedule.run(params, toy_photographs, slices, threads=1, seconds=1e-9)
        except SystemExit as stopped:
            assert stopped.code == 0
            pauses += 1
    assert pauses == 4 * 5  # each model has five steps that are not its last
    assert_same(whole, slices)
    assert "vit: 3 of 6 steps, 6 images seen; the same command goes on" in capsys.readouterr().out

    options = ["--params", params, "--photographs", toy_photographs, "--checkpoints", killed, "--threads", "1"]
    command = [sys.executable, "-m", "featspace_training.schedule", *map(str, options)]
    for number, file in ((signal.SIGKILL, "vae.pt"), (signal.SIGTERM, "vit.pt")):
        with subprocess.Popen(
            command, cwd=ROOT / "training", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            while not (killed / file).exists():
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(number)
            error = process.stderr.read().decode()
    assert process.returncode == 143 and "error: ended by SIGTERM; the same command goes on\n" in error
    assert not list(killed.rglob(".partial-*")) and not (killed / "prior").exists()
    schedule.run(params, toy_photographs, killed, threads=1)
    assert_same(whole, killed)


def test_a_finished_schedule_trains_nothing_until_a_recipe_is_longer(params, toy_photographs, tmp_path, capsys):
    schedule.run(params, toy_photographs, tmp_path / "c", threads=1)
    before = {name: (tmp_path / "c" / name).stat().st_mtime_ns for name in WEIGHTS}
    schedule.run(params, toy_photographs, tmp_path / "c", threads=1)
    assert before == {name: (tmp_path / "c" / name).stat().st_mtime_ns for name in WEIGHTS}
    recipes = YAML().load(params)
    recipes["vit"]["steps"] = 9
    YAML().dump(recipes, params)
    capsys.readouterr()
    schedule.run(params, toy_photographs, tmp_path / "c", threads=1)
    assert "vit: 5 of 9 steps" in capsys.readouterr().out  # the last before the rate fell
    changed = [name for name in WEIGHTS if before[name] != (tmp_path / "c" / name).stat().st_mtime_ns]
    assert changed == ["vit"]


def test_a_recipe_that_does_not_fit_its_checkpoint_is_refused_before_anything_is_trained(
    params, toy_photographs, tmp_path
):
    with pytest.raises(SystemExit):
        schedule.run(params, toy_photographs, tmp_path / "c", threads=1, seconds=1e-9)
    recipes = YAML().load(params)
    recipes["vae"]["lr"] = 2e-3
    YAML().dump(recipes, params)
    with pytest.raises(FeatspaceError, match="vae.pt: written with another recipe"):
        schedule.run(params, toy_photographs, tmp_path / "c", threads=1)


def test_make_train_runs_it_at_the_lowest_priority():
    command = ["make", "-n", "--no-print-directory", "train", "THREADS=2", "SECONDS=60"]  # `make test` is a make, too
    shown = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    line = " ".join(shown.replace("\\\n", " ").split())
    assert line.endswith("nice -n 19 ../.venv/bin/python -m featspace_training.schedule --threads 2 --seconds 60")
