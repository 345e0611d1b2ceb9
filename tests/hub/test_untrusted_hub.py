"""A hub that is not to be trusted: names that lead out of the cache, and answers that are not encrypted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from local_hub import LocalHub
from tiny_project import PRIOR, RESNET, VISION, fails, head, pinned, point, write_params

from featspace.hub.lock import LOCK
from featspace.hub.published import obtain
from featspace.utils.addresses import check_address
from featspace.utils.errors import FeatspaceError

FOREIGN = "http://models.example.org"  # which is never asked, so that it need not be there


def files_outside(tmp_path: Path) -> list[Path]:
    return [path for path in tmp_path.rglob("*evil*") if path.name != "evil.lock"]


@pytest.mark.parametrize("name", ["tokenizer/../../../evil.json", "tokenizer/../../../../../evil.json"])
def test_a_file_name_that_leads_out_of_the_cache(hub: LocalHub, tmp_path: Path, capsys, name: str) -> None:
    write_params(prior=PRIOR)
    files = hub.repositories["org/tiny-sd"][head(hub, "org/tiny-sd")]
    hub.add("org/tiny-sd", {**files, name: b"{}"})
    fails(capsys, PRIOR, f"the hub calls a file {name!r}", "check HF_ENDPOINT")
    assert not files_outside(tmp_path)


def test_an_etag_that_leads_out_of_the_cache(hub: LocalHub, tmp_path: Path, capsys) -> None:
    write_params(prior=RESNET)
    pinned(hub)
    hub.etag = "../../evil"
    fails(capsys, RESNET, "the hub calls a file '../../evil'", "check HF_ENDPOINT")
    assert not files_outside(tmp_path)


def test_parts_that_lie_elsewhere(hub: LocalHub) -> None:
    index = json.dumps({"weight_map": {"w": "../../../x.safetensors"}}).encode()
    described = {"config.json": b"{}", "preprocessor_config.json": b"{}"}
    hub.add("org/parts", {**described, "model.safetensors.index.json": index})
    with pytest.raises(FeatspaceError, match=r"index\.json: names the part '../../../x.safetensors', which is no file"):
        obtain("transformers:org/parts")


def test_a_hub_that_is_not_encrypted(hub: LocalHub, capsys, monkeypatch) -> None:
    write_params(prior=RESNET)
    point(monkeypatch, FOREIGN)
    fails(capsys, f"{FOREIGN}/api/models/timm/test_resnet.r160_in1k: is not encrypted", "https://")
    point(monkeypatch, hub.url)
    write_params(prior=VISION, net=VISION)
    entry = {"repository": f"{FOREIGN}/models", "revision": None, "license": ""}
    entry |= {"files": {"model.safetensors": {"bytes": 1, "sha256": ""}}}
    Path("data").mkdir()
    Path(LOCK).write_text(json.dumps({VISION: entry}))
    fails(capsys, f"{FOREIGN}/models/model.safetensors: is not encrypted")
    assert not hub.requests


def test_a_redirection_to_what_is_not_encrypted(hub: LocalHub, tmp_path: Path, capsys, monkeypatch) -> None:
    write_params(prior=RESNET)
    monkeypatch.setattr(LocalHub, "cdn", f"{FOREIGN}/cdn")
    fails(capsys, f"{FOREIGN}/cdn/", "is not encrypted")
    assert not [path for path in (tmp_path / "hub").rglob("blobs/*") if path.suffix != ".lock" and path.stat().st_size]
    assert not Path(LOCK).exists()


@pytest.mark.parametrize(
    ("url", "refused"),
    [
        ("https://example.org/x", False),
        ("http://localhost:8000/x", False),
        ("http://127.0.0.2/x", False),
        ("http://[::1]:80/x", False),
        ("file:///x", False),
        ("http://example.org/x", True),
        ("HTTP://example.org/x", True),
        ("http://localhost.example.org/x", True),
        ("http://127.0.0.1@example.org/x", True),
        ("http://10.0.0.1/x", True),
    ],
)
def test_what_is_asked_without_encryption_is_on_this_machine(url: str, refused: bool) -> None:
    if not refused:
        return check_address(url)
    with pytest.raises(FeatspaceError, match="is not encrypted; name an address that begins with https://"):
        check_address(url)
