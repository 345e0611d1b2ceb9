"""The paper's photographs, from a server that the test starts: verified, fetched once, one line for each failure."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import huggingface_hub.constants
import numpy as np
import pytest
from PIL import Image

from featspace.config.params import Params
from featspace.data import paper_photos
from featspace.data.paper_photos import fetch_photo
from featspace.data.targets import read_targets
from featspace.stages.targets import run_targets
from featspace.utils.errors import FeatspaceError, UsageError

SHIPPED = Path(__file__).parents[2] / "params.yaml"
PHOTOS = ["coco/12.png", "coco/34.png"]


class Handler(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        if self.server.elsewhere:
            self.send_response(302)
            self.send_header("Location", f"{self.server.elsewhere}{self.path}")
            return self.end_headers()
        cut = self.server.cut_off
        if cut is None:
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", str(cut + 1))
        self.end_headers()
        self.wfile.write(b"\x89PNG"[:cut])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """Serves two photographs, 40×32 pixels, as the repository's only ones; the cache is empty."""
    sums = tmp_path / "photos.sha256"
    folder = tmp_path / "repository"
    with sums.open("w") as lines:
        for brightness, name in zip((80, 160), PHOTOS, strict=True):
            encoded = io.BytesIO()
            Image.fromarray(np.full((32, 40, 3), brightness, np.uint8)).save(encoded, "PNG")
            path = folder / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded.getvalue())
            lines.write(f"{hashlib.sha256(encoded.getvalue()).hexdigest()}  data/{name}\n")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    server.requests, server.cut_off, server.data, server.elsewhere = [], None, folder / "data", ""
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(paper_photos, "SUMS", sums)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FEATSPACE_PAPER_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


def cached(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def failure(name: str = PHOTOS[0]) -> str:
    with pytest.raises(FeatspaceError) as caught:
        fetch_photo(name)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"paper:{name}: ")
    return str(caught.value)


def test_targets_are_fetched_once(server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_text(
        "seed: 0\ntiny:\n  prior: p\n  judge: j\n  resolution: 32\n  encoders: {net: {network: n}}\n"
        '  photos: {a: {image: "paper:coco/12.png"}, b: {image: "paper:coco/34.png", crop: [8, 0, 32]}}\n'
    )
    profile = Params.load(tmp_path / "params.yaml").profile("tiny")
    run_targets(profile, tmp_path, tmp_path / "first")
    assert server.requests == [f"/data/{name}" for name in PHOTOS]
    assert [target.source for target in read_targets(tmp_path / "first")] == [f"paper:{name}" for name in PHOTOS]
    with Image.open(tmp_path / "first" / "b.png") as image:
        assert image.size == (32, 32) and image.getpixel((5, 5)) == (160, 160, 160)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    run_targets(profile, tmp_path, tmp_path / "second")
    assert len(server.requests) == 2
    for file in (tmp_path / "first").iterdir():
        assert (tmp_path / "second" / file.name).read_bytes() == file.read_bytes()


def test_an_altered_file_of_the_cache_is_fetched_again(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    paths = [fetch_photo(name) for name in PHOTOS]
    paths[1].write_bytes(b"altered")
    assert [fetch_photo(name) for name in PHOTOS] == paths
    assert paths[1].read_bytes() == (server.data / PHOTOS[1]).read_bytes()
    assert server.requests == [f"/data/{PHOTOS[0]}", f"/data/{PHOTOS[1]}", f"/data/{PHOTOS[1]}"]
    assert sorted(cached(tmp_path)) == sorted(paths)


def test_goes_on_where_it_failed(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    first = fetch_photo(PHOTOS[0])
    (server.data / PHOTOS[1]).rename(tmp_path / "away")
    assert "404" in failure(PHOTOS[1])
    assert cached(tmp_path) == [first]
    (tmp_path / "away").rename(server.data / PHOTOS[1])
    for name in PHOTOS:
        fetch_photo(name)
    assert server.requests == [f"/data/{name}" for name in (PHOTOS[0], PHOTOS[1], PHOTOS[1])]


def test_another_file_than_the_published_one(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    (server.data / PHOTOS[0]).write_bytes((server.data / PHOTOS[1]).read_bytes())
    assert "not the published file" in failure()
    assert not cached(tmp_path)


def test_an_address_that_is_not_encrypted(
    server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given, or redirected to; one of this machine is asked."""
    server.elsewhere = "http://photos.example.org"
    unencrypted = f"http://photos.example.org/data/{PHOTOS[0]}: is not encrypted; name an address that begins with"
    assert unencrypted in str(pytest.raises(FeatspaceError, fetch_photo, PHOTOS[0]).value) and len(server.requests) == 1
    monkeypatch.setenv("FEATSPACE_PAPER_URL", "http://photos.example.org")
    assert unencrypted in str(pytest.raises(FeatspaceError, fetch_photo, PHOTOS[0]).value) and len(server.requests) == 1
    assert not cached(tmp_path)


@pytest.mark.parametrize("cut_off", [0, 4])
def test_cut_off(server: ThreadingHTTPServer, tmp_path: Path, cut_off: int) -> None:
    server.cut_off = cut_off
    assert f"cannot be had from http://127.0.0.1:{server.server_port}/data/{PHOTOS[0]} (" in failure()
    assert not cached(tmp_path)


def test_no_network(server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = failure()
    assert "HF_HUB_OFFLINE is set" in message and not server.requests
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    server.shutdown()
    server.server_close()
    assert "check the network connection, or put the file at" in failure()
    monkeypatch.setenv("FEATSPACE_PAPER_URL", "nowhere")
    assert "check the network connection" in failure()
    place = Path(message.partition("not at ")[2].partition(", and")[0])
    place.parent.mkdir(parents=True)
    place.write_bytes((server.data / PHOTOS[0]).read_bytes())
    assert fetch_photo(PHOTOS[0]) == place


@pytest.mark.parametrize("name", ["coco/56.png", "../data/coco/12.png", ""])
def test_unknown_photo(server: ThreadingHTTPServer, name: str) -> None:
    with pytest.raises(UsageError, match="not among the paper's photographs: coco/12.png, coco/34.png"):
        fetch_photo(name)
    assert not server.requests


def test_profile_names_each_published_photo_once() -> None:
    lines = [line.split("  ") for line in paper_photos.SUMS.read_text().splitlines()]
    assert len(lines) == 15 and all(len(bytes.fromhex(digest)) == 32 for digest, _ in lines)
    paper = Params.load(SHIPPED).profile("paper")
    used = [photo.image.replace("paper:", "data/") for photo in paper.photos.values()]
    assert sorted(used) == [path for _, path in lines]
    assert paper.captions == {"caption_motorbike": "A black motorbike parked on the dry ground"}
