"""`featspace fetch` against a hub on this machine: what it gets, records and resumes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub.constants as constants
import pytest
import timm
import torch
from huggingface_hub import hf_hub_download
from local_hub import LocalHub
from safetensors.torch import load
from tiny_project import (
    CLIP,
    PRIOR,
    RESNET,
    UNET,
    VISION,
    fails,
    fetch,
    head,
    in_hub_cache,
    pinned,
    state,
    write_params,
)

from featspace.cli import main
from featspace.encoders.encoder import load_encoder
from featspace.hub.lock import LOCK, read_lock
from featspace.stages.decode import load_pipeline
from featspace.utils.files import sha256


def test_networks_that_no_profile_names(hub: LocalHub, capsys: pytest.CaptureFixture, published: dict) -> None:
    """A network by its name, and an autoencoder on its own, which needs no pipeline around it."""
    files = published["repositories"]["org/tiny-sd"]
    alone = {Path(name).name: content for name, content in files.items() if name.startswith("vae/")}
    hub.add("org/tiny-vae", alone | {"README.md": b"not needed"})
    write_params()
    main(["fetch", RESNET, "autoencoder:org/tiny-vae", "--profile", "tiny", "--out", "data/weights.json"])
    pins = read_lock(Path())
    assert list(pins) == ["autoencoder:org/tiny-vae", RESNET]
    assert pins["autoencoder:org/tiny-vae"].files.keys() == alone.keys()
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_everything(hub: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture, published: dict) -> None:
    write_params(clip=CLIP, resnet=RESNET, vision=VISION)
    lines = fetch(capsys)
    pins = read_lock(Path())
    assert list(pins) == sorted([PRIOR, CLIP, RESNET, VISION])

    # What is recorded is what was published, and only what is needed.
    needed = published["repositories"]["org/tiny-sd"].keys() - {
        "README.md",
        "tokenizer/tokenizer.pkl",
        "safety_checker/model.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
    }
    assert pins[PRIOR].files.keys() == needed
    assert pins[PRIOR].revision == list(hub.repositories["org/tiny-sd"])[-1]
    sizes = {}
    for network, pin in pins.items():
        sizes[network] = sum(file.bytes for file in pin.files.values())
        for name, file in pin.files.items():
            path = pin.folder / name
            assert (path.stat().st_size, sha256(path)) == (file.bytes, file.sha256)
            assert path.is_symlink() == (network != VISION)  # into the hub's cache, where each file is once
    contents = [path.read_bytes() for path in (tmp_path / "hub").rglob("blobs/*")]
    assert len(contents) == len(set(contents)) == len(needed) + 2

    # Announced: each network, its size and licence, and the total.
    assert len(lines) == 5 and all(line.startswith(network) for line, network in zip(lines, pins, strict=False))
    assert f"huggingface.co/{pins[RESNET].repository}" in lines[2] and "to be pinned" in lines[2]
    assert float(lines[4].split("MB")[0]) * 1e6 == pytest.approx(sum(sizes.values()), rel=0.01)

    # The token stays with the hub.
    assert {r.authorized for r in hub.requests if "/resolve/" in r.path or "/api/" in r.path} == {True}
    assert {r.authorized for r in hub.bodies()} == {False}

    # Once more: nothing is asked for, the outputs stay the same, and everything loads from what was fetched.
    before = Path("data/weights.json").read_bytes(), Path(LOCK).read_bytes()
    hub.requests.clear()
    assert all("in the cache" in line for line in fetch(capsys))
    assert (Path("data/weights.json").read_bytes(), Path(LOCK).read_bytes()) == before
    assert [entry["network"] for entry in json.loads(before[0])["hub"]] == list(pins)
    unet = load_pipeline(PRIOR).unet.state_dict()
    for name, value in load(published["repositories"]["org/tiny-sd"][UNET]).items():
        assert torch.equal(unet[name], value.float())
    for network in (CLIP, RESNET, VISION):
        assert torch.isfinite(load_encoder(network)(torch.rand(1, 3, 64, 64))).all()
    assert not hub.requests


def test_pinned_revision_is_loaded_after_a_newer_one_came(hub: LocalHub, published: dict) -> None:
    write_params(prior=PRIOR)
    fetch()
    first = load_encoder(RESNET)
    hub.add("timm/test_resnet.r160_in1k", {"model.safetensors": state(timm.create_model("test_resnet"))})
    fetch()
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(load_encoder(RESNET)(images), first(images))
    Path(LOCK).unlink()
    fetch()
    assert not torch.equal(load_encoder(RESNET)(images), first(images))


@pytest.mark.parametrize("network", [RESNET, VISION])
def test_a_broken_connection_is_resumed(hub: LocalHub, tmp_path: Path, capsys, network: str) -> None:
    write_params(net=network)
    hub.cuts = [10_000, 20_000]
    fetch()
    ranges = [request.range for request in hub.bodies() if "/cdn/" in request.path or network == VISION]
    broken = ranges.index(None)
    assert ranges[broken : broken + 3] == [None, "bytes=10000-", "bytes=30000-"]
    assert not list(tmp_path.rglob("*.incomplete"))


def test_an_interrupted_download_is_resumed_by_the_next_fetch(hub: LocalHub, tmp_path: Path, capsys) -> None:
    write_params(prior=PRIOR)
    digest = hashlib.sha256(hub.repositories["org/tiny-sd"][head(hub, "org/tiny-sd")][UNET]).hexdigest()

    def break_down() -> None:
        """After the first part of the UNet the hub is down."""
        hub.failures = {f"/cdn/{digest}": (503, "")}

    hub.after = {f"/cdn/{digest}": (50_000, break_down)}
    fails(capsys, PRIOR, "not to be had", "503")
    assert in_hub_cache(tmp_path, "*.incomplete") == in_hub_cache(tmp_path, f"{digest}.incomplete") != []
    assert not in_hub_cache(tmp_path, UNET)
    got = {request.path for request in hub.bodies()}

    hub.failures.clear()
    hub.requests.clear()
    fetch()
    assert [request.range for request in hub.bodies() if digest in request.path] == ["bytes=50000-"]
    assert not {request.path for request in hub.bodies()} & (got - {f"/cdn/{digest}"})  # what was complete stays
    assert sha256(read_lock(Path())[PRIOR].folder / UNET) == digest


def test_revision_alone_can_be_pinned(hub: LocalHub) -> None:
    write_params(prior=RESNET)
    file = pinned(hub, files={})
    old = head(hub, "timm/test_resnet.r160_in1k")
    hub.add("timm/test_resnet.r160_in1k", {"model.safetensors": b"newer"})
    fetch()
    recorded = read_lock(Path())[RESNET]
    assert recorded.revision == old and recorded.files["model.safetensors"].model_dump() == file


def test_an_existing_cache_is_used(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    write_params(prior=PRIOR)
    for repository in ("org/tiny-sd", "timm/test_resnet.r160_in1k"):
        for name in hub.repositories[repository][head(hub, repository)]:
            hf_hub_download(repository, name)
    hub.requests.clear()
    fetch()
    assert hub.requests and all(request.path.startswith("/api/") for request in hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    Path("data/weights.json").unlink()
    fetch()
    assert Path("data/weights.json").exists() and not hub.requests


def test_a_network_used_once_without_a_lock_stays_the_same(hub: LocalHub) -> None:
    first = load_encoder(RESNET)
    hub.add("timm/test_resnet.r160_in1k", {"model.safetensors": state(timm.create_model("test_resnet"))})
    hub.requests.clear()
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(load_encoder(RESNET)(images), first(images))
    assert not hub.requests and not Path(LOCK).exists()


def test_environment_of_the_hub(hub: LocalHub, tmp_path: Path) -> None:
    """HF_ENDPOINT and HF_HOME, as another process reads them."""
    write_params(prior=PRIOR, net="models")
    Path("models").mkdir()
    source = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": source}
    command = [sys.executable, "-c", "from featspace.cli import main; main()", "fetch", "--profile", "tiny"]
    done = subprocess.run([*command, "--out", "weights.json"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and PRIOR in done.stdout, done.stderr
    assert (tmp_path / "home/hub/models--org--tiny-sd/snapshots" / head(hub, "org/tiny-sd") / UNET).is_symlink()


def test_two_first_downloads_at_once_are_one(hub: LocalHub, tmp_path: Path) -> None:
    """The first is held up until the second has asked the hub for the same file, and half a second more."""
    write_params(prior=RESNET)
    file = pinned(hub)
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}

    def hold() -> None:
        end = time.monotonic() + 60
        while sum("/resolve/" in each.path for each in hub.requests) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.5)

    hub.after[f"/cdn/{file['sha256']}"] = (None, hold)
    code = f"from featspace.hub import resolve; print(resolve({RESNET!r}))"
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    found = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], found
    assert found[0][0] == found[1][0] and len(hub.bodies()) == 1
    files = [path for path in (tmp_path / "home/hub/models--timm--test_resnet.r160_in1k").rglob("*") if path.is_file()]
    assert all(sha256(path) == file["sha256"] for path in files) and files
