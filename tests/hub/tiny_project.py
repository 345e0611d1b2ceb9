"""A project whose profile `tiny` names networks on a local hub, and the command that fetches them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import huggingface_hub.constants as constants
import pytest
import torch
from local_hub import LocalHub
from ruamel.yaml import YAML
from safetensors.torch import save

from featspace.cli import main
from featspace.hub.lock import LOCK

PRIOR, RESNET, VISION = "diffusers:org/tiny-sd", "timm:test_resnet", "torchvision:shufflenet_v2_x0_5/IMAGENET1K_V1"
CLIP = "open_clip:tiny/openai"
UNET, VAE = (f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae"))


def state(model: torch.nn.Module) -> bytes:
    return save({name: value.contiguous() for name, value in model.state_dict().items()})


def point(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """What HF_ENDPOINT does when the library is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )


def write_params(prior: str = PRIOR, **encoders: str) -> None:
    """The judge is an empty folder, so that nothing of it is fetched."""
    Path("judge").mkdir(exist_ok=True)
    networks = {name: {"network": network} for name, network in (encoders or {"resnet": RESNET}).items()}
    profile = {
        "prior": prior,
        "resolution": 64,
        "encoders": networks,
        "judge": "judge",
        "captions": {"pizza": "a pizza"},
    }
    YAML(typ="safe").dump({"seed": 0, "tiny": profile}, Path("params.yaml"))


def fetch(capsys: pytest.CaptureFixture | None = None) -> list[str]:
    """The lines that the command prints."""
    main(["fetch", "--profile", "tiny", "--out", "data/weights.json"])
    return capsys.readouterr().out.splitlines() if capsys else []


def fails(capsys: pytest.CaptureFixture, *parts: str) -> None:
    """The command fails with one line that has all the parts, and neither output nor lock are written."""
    lock = Path(LOCK).read_bytes() if Path(LOCK).exists() else None
    with pytest.raises(SystemExit) as stop:
        fetch()
    error = capsys.readouterr().err
    line = error.strip().splitlines()[-1]
    assert stop.value.code == 1 and "Traceback" not in error
    assert line.startswith("featspace: error: ") and all(part in line for part in parts), line
    assert not Path("data/weights.json").exists() and (Path(LOCK).read_bytes() if Path(LOCK).exists() else None) == lock


def in_hub_cache(tmp_path: Path, pattern: str) -> list[Path]:
    return sorted((tmp_path / "hub").rglob(pattern))


def head(hub: LocalHub, repository: str) -> str:
    return list(hub.repositories[repository])[-1]


def pinned(hub: LocalHub, network: str = RESNET, repository: str = "timm/test_resnet.r160_in1k", **changes) -> dict:
    """A lock, as fetched, with changes of its entry."""
    content = hub.repositories[repository][head(hub, repository)]["model.safetensors"]
    file = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    entry = {"repository": repository, "revision": head(hub, repository), "license": "https://example.org/license"}
    entry |= {"files": {"model.safetensors": file}} | changes
    Path("data").mkdir(exist_ok=True)
    Path(LOCK).write_text(json.dumps({network: entry}))
    return file
