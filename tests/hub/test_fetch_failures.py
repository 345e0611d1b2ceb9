"""Whatever a hub, a cache or a lock can do wrong is one line that says what, where and what to do."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants as constants
import pytest
import torch
from local_hub import GATED, LocalHub
from safetensors.torch import load, save
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
    point,
    write_params,
)

from featspace.encoders.encoder import load_encoder
from featspace.hub.lock import LOCK, read_lock
from featspace.stages.decode import load_pipeline
from featspace.utils.errors import FeatspaceError


def test_other_bytes_than_pinned_are_not_kept(hub: LocalHub, tmp_path: Path, capsys) -> None:
    write_params(prior=RESNET)
    file = pinned(hub)
    content = hub.repositories["timm/test_resnet.r160_in1k"][head(hub, "timm/test_resnet.r160_in1k")]
    content["model.safetensors"] = content["model.safetensors"][:-1] + b"\xff"
    fails(capsys, RESNET, "is not what is pinned", file["sha256"][:8])
    assert not [path for path in in_hub_cache(tmp_path, "*") if path.is_file()]


def test_published_digest_of_a_web_file_is_enforced(hub: LocalHub, tmp_path: Path, capsys) -> None:
    write_params(prior=VISION, net=VISION)
    name = next(iter(hub.files))
    hub.files[name] = hub.files[name][:-1] + b"\xff"
    fails(capsys, VISION, "is not what is pinned", name)
    assert not [path for path in (tmp_path / "torch").rglob("*") if path.is_file()]


def test_wrong_revision(hub: LocalHub, capsys) -> None:
    write_params(prior=RESNET)
    pinned(hub, revision="1" * 40)
    fails(capsys, RESNET, f"has no revision {'1' * 40}", f"correct {LOCK}")
    pinned(hub)
    hub.commit = "2" * 40  # as a mirror might that ignores the revision
    fails(capsys, RESNET, f"is of revision {'2' * 40}", "check HF_ENDPOINT")


@pytest.mark.parametrize(
    ("failure", "parts"),
    [
        ({"/resolve/": GATED}, ["is gated", "accept its licence at https://huggingface.co/timm/test_resnet"]),
        ({"/resolve/": (403, "GatedRepo")}, ["is gated", "hf auth login"]),
        ({"/resolve/": (401, "")}, ["timm/test_resnet.r160_in1k does not exist or is not public", "check the name"]),
        ({"/api/": (404, "RepoNotFound")}, ["timm/test_resnet.r160_in1k does not exist"]),
        ({"/api/": (500, "")}, ["not to be had", "500", "network connection"]),
        ({"/resolve/": (404, "EntryNotFound")}, ["404", "model.safetensors"]),
    ],
)
def test_refusals(hub: LocalHub, tmp_path: Path, capsys, failure: dict, parts: list[str]) -> None:
    write_params(prior=RESNET)
    hub.failures = failure
    fails(capsys, RESNET, *parts)
    assert not [path for path in in_hub_cache(tmp_path, "*") if path.is_file()]


def test_unusable_repositories(hub: LocalHub, capsys) -> None:
    write_params(prior=RESNET)
    hub.add("timm/test_resnet.r160_in1k", {"pytorch_model.bin": b"a pickle"})
    fails(capsys, RESNET, "has no model.safetensors", "a pickle")
    write_params(prior="diffusers:org/nothing", net="models")
    Path("models").mkdir()
    fails(capsys, "diffusers:org/nothing", "org/nothing does not exist or is not public")
    write_params(prior="difusers:org/tiny-sd")
    with pytest.raises(SystemExit) as stop:
        fetch()
    assert stop.value.code == 2 and "did you mean diffusers?" in capsys.readouterr().err


def test_no_connection_and_offline(hub: LocalHub, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    write_params(prior=RESNET)
    point(monkeypatch, "http://127.0.0.1:1")
    fails(capsys, RESNET, "not to be had", "check the name and the network connection")
    with pytest.raises(FeatspaceError, match="check the name and the network connection"):
        load_encoder(RESNET)
    point(monkeypatch, hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fails(capsys, RESNET, "not in the local cache, and HF_HUB_OFFLINE is set")
    write_params(prior=VISION, net=VISION)
    fails(capsys, VISION, "not in the local cache, and HF_HUB_OFFLINE is set")
    assert not hub.requests


def test_half_downloaded_cache(hub: LocalHub, tmp_path: Path, capsys) -> None:
    write_params(prior=PRIOR)
    fetch()
    Path("data/weights.json").unlink()
    weights = read_lock(Path())[PRIOR].folder / UNET
    blob, whole = weights.resolve(), weights.read_bytes()

    blob.write_bytes(whole[:1000])
    fails(capsys, str(blob), "altered or cut off", "remove it")
    with pytest.raises(FeatspaceError, match="altered or cut off"):
        load_pipeline(PRIOR)
    blob.unlink()  # as the line says; what is left is a link to nothing
    blob.with_name(f"{blob.name}.incomplete").write_bytes(whole + b"more")  # and a part of something else
    fetch()
    assert weights.read_bytes() == whole
    blob.unlink()
    blob.with_name(f"{blob.name}.incomplete").write_bytes(b"x" * 1000)
    Path("data/weights.json").unlink()
    fails(capsys, PRIOR, "is not what is pinned")
    fetch()
    assert weights.read_bytes() == whole


def test_damaged_lock(hub: LocalHub, capsys) -> None:
    write_params(prior=RESNET)
    for damage in ({"sha256": "no digest"}, {"bytes": -1}, {"size": 3}):
        pinned(hub, files={"model.safetensors": {"bytes": 1, "sha256": ""} | damage})
        fails(capsys, f"{LOCK}: cannot be read", f"git checkout -- {LOCK}")
    Path(LOCK).write_text("{")
    fails(capsys, f"{LOCK}: cannot be read")
    with pytest.raises(FeatspaceError, match="cannot be read"):
        load_encoder(RESNET)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_prior_of_the_wrong_architecture(hub: LocalHub, part: str) -> None:
    files = dict(hub.repositories["org/tiny-sd"][head(hub, "org/tiny-sd")])
    name = next(name for name in files if name.startswith(f"{part}/") and name.endswith("l.safetensors"))
    wrong = [save({"w": torch.zeros(3)})]  # of which the libraries only warn
    if part == "unet":
        wrong += [reshaped(files[name]), files[name][:-20], b"no safetensors"]
    for content in wrong:
        hub.add("org/tiny-sd", files | {name: content})
        with pytest.raises(FeatspaceError, match="; get (it|them) again") as caught:
            load_pipeline(PRIOR)
        assert str(caught.value).startswith(PRIOR) and "\n" not in str(caught.value)


def reshaped(content: bytes) -> bytes:
    return save({name: torch.cat([value, value]) for name, value in load(content).items()})


@pytest.mark.parametrize("network", [CLIP, RESNET])
def test_encoder_of_the_wrong_architecture(hub: LocalHub, network: str) -> None:
    repository = {CLIP: "org/tiny-clip", RESNET: "timm/test_resnet.r160_in1k"}[network]
    files = hub.repositories[repository][head(hub, repository)]
    name = next(name for name in files if name.endswith("l.safetensors"))
    for wrong in (save({"w": torch.zeros(3)}), files[name][:-20], b"no safetensors"):
        hub.add(repository, {name: wrong})
        with pytest.raises(FeatspaceError, match="do not fit or are damaged") as caught:
            load_encoder(network)
        assert str(caught.value).startswith(network) and "\n" not in str(caught.value)
