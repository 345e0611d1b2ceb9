"""Weights: whatever differs from the manifest is named, with what to do about it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from featspace.cli import main
from featspace.config.params import Params, Profile
from featspace.hub.manifest import check_folder, verify_manifest
from featspace.stages.fetch import run_fetch
from featspace.utils.errors import FeatspaceError
from featspace.utils.files import sha256

NETWORKS = ("prior/unet", "net", "judge")
PARAMS = """\
seed: 0
tiny:
  prior: data/models/prior
  resolution: 64
  encoders: {net: {network: data/models/net}}
  judge: data/models/judge
  captions: {pizza: a photo of a pizza}
"""


def write_manifest(models: Path) -> None:
    files = sorted(path for path in models.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    lines = [f"{sha256(path)}  {path.relative_to(models).as_posix()}\n" for path in files]
    (models / "SHA256SUMS").write_text("".join(lines))


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """data/models with real safetensors files and their manifest, in the working directory."""
    monkeypatch.chdir(tmp_path)
    folder = Path("data/models")
    for number, name in enumerate(NETWORKS):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
        save_file({"w": torch.full((4,), float(number))}, folder / name / "model.safetensors")
    write_manifest(folder)
    return folder


def profile() -> Profile:
    Path("params.yaml").write_text(PARAMS)
    return Params.load().profile("tiny")


def test_whole_folder_passes(models: Path) -> None:
    listed = verify_manifest(models)
    assert {path.relative_to(models).as_posix() for path in listed} == {
        f"{name}/{file}" for name in NETWORKS for file in ("config.json", "model.safetensors")
    }
    for name in ("prior", "prior/unet", "net"):
        check_folder(models / name)


def altered(models: Path) -> None:
    path = models / "net" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def missing(models: Path) -> None:
    (models / "net" / "config.json").unlink()


def unlisted(models: Path) -> None:
    save_file({"w": torch.zeros(1)}, models / "net" / "more.safetensors")


def pickled(models: Path) -> None:
    torch.save({"w": torch.zeros(1)}, models / "net" / "pytorch_model.BIN")


def linked_out(models: Path) -> None:
    outside = models.parent / "elsewhere.safetensors"
    (models / "net" / "model.safetensors").rename(outside)
    (models / "net" / "model.safetensors").symlink_to(outside.resolve())


DAMAGES = [
    (altered, "net/model.safetensors: the file was altered", "git checkout -- data/models/net/model"),
    (missing, "net/config.json: the file is missing", "git checkout -- data/models/net/config.json"),
    (unlisted, "net/more.safetensors: SHA256SUMS does not list", "remove it"),
    (pickled, "net/pytorch_model.BIN: a pickle", "remove it, or convert it to safetensors"),
    (linked_out, "net/model.safetensors: data/models/SHA256SUMS lists a path outside", "git checkout -- "),
]


@pytest.mark.parametrize(("damage", "what", "remedy"), DAMAGES, ids=[damage.__name__ for damage, _, _ in DAMAGES])
def test_damage_is_named(models: Path, damage: Callable[[Path], None], what: str, remedy: str) -> None:
    damage(models)
    for check in (lambda: verify_manifest(models), lambda: check_folder(models / "net")):
        with pytest.raises(FeatspaceError) as caught:
            check()
        assert str(caught.value).startswith(f"data/models/{what}")
        assert remedy in str(caught.value) and "\n" not in str(caught.value)
    check_folder(models / "judge")  # another model's damage does not matter to this one


def test_every_problem_gets_a_line(models: Path) -> None:
    altered(models)
    missing(models)
    pickled(models)
    with pytest.raises(FeatspaceError) as caught:
        verify_manifest(models)
    assert [line.split(":")[0].rsplit("/")[-1] for line in str(caught.value).splitlines()] == [
        "config.json",
        "model.safetensors",
        "pytorch_model.BIN",
    ]


def test_a_listed_pickle_is_refused_too(models: Path) -> None:
    pickled(models)
    write_manifest(models)
    with pytest.raises(FeatspaceError, match="a pickle"):
        verify_manifest(models)
    with pytest.raises(FeatspaceError, match="a pickle"):
        check_folder(models / "net")


@pytest.mark.parametrize("name", ["../outside.json", "net/../../outside.json", "/etc/hostname"])
def test_listed_path_out_of_the_folder(models: Path, name: str) -> None:
    (models.parent / "outside.json").write_text("{}")
    manifest = models / "SHA256SUMS"
    manifest.write_text(manifest.read_text() + f"{'0' * 64}  {name}\n")
    with pytest.raises(FeatspaceError, match="lists a path outside its folder"):
        verify_manifest(models)


def test_bad_or_missing_manifest(models: Path) -> None:
    (models / "SHA256SUMS").write_text("not a checksum\n")
    with pytest.raises(FeatspaceError, match="SHA256SUMS: line 1 is no SHA-256 and path; restore it, in a checkout"):
        verify_manifest(models)
    (models / "SHA256SUMS").unlink()
    with pytest.raises(FeatspaceError, match="the manifest is missing; restore it, in a checkout with: git checkout"):
        verify_manifest(models)
    check_folder(models / "net")


def test_folder_without_manifest_refuses_only_pickles(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b" / "own"
    folder.mkdir(parents=True)
    save_file({"w": torch.zeros(1)}, folder / "model.safetensors")
    check_folder(folder)
    (folder / "model.pth").write_bytes(b"")
    with pytest.raises(FeatspaceError, match=r"model\.pth: a pickle"):
        check_folder(folder)


def test_missing_folder(models: Path) -> None:
    (models / "judge").rename("away")
    with pytest.raises(FeatspaceError, match="judge: no such folder of weights; restore it, in a checkout with: git"):
        check_folder(models / "judge")
    with pytest.raises(FeatspaceError, match="other: no such folder of weights; check its path"):
        check_folder(models / "other")


def test_fetch_lists_every_file(models: Path) -> None:
    run_fetch(profile().networks, Path("data/tiny/weights.json"))
    first = Path("data/tiny/weights.json").read_bytes()
    found = json.loads(first)
    assert found["hub"] == []
    paths = [entry["path"] for entry in found["files"]]
    assert paths == sorted(
        f"data/models/{name}/{file}" for name in NETWORKS for file in ("config.json", "model.safetensors")
    )
    for entry in found["files"]:
        assert entry["sha256"] == sha256(Path(entry["path"]))
        assert entry["bytes"] == Path(entry["path"]).stat().st_size
    run_fetch(profile().networks, Path("data/tiny/weights.json"))
    assert Path("data/tiny/weights.json").read_bytes() == first


def test_fetch_from_another_working_directory(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, root = profile(), Path.cwd()
    run_fetch(tiny.networks, Path("here.json"))
    monkeypatch.chdir("/")
    run_fetch(tiny.networks, root / "there.json", root)
    assert (root / "there.json").read_bytes() == (root / "here.json").read_bytes()


def test_fetch_of_a_folder_in_the_working_directory(project: Path, tmp_path: Path, monkeypatch) -> None:
    shutil.copytree("data/models/vit", tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    main(["fetch", "own", "--params", str(project / "params.yaml"), "--out", "own.json"])
    found = {Path(entry["path"]).name: entry["sha256"] for entry in json.loads(Path("own.json").read_text())["files"]}
    assert found["model.safetensors"] == sha256(Path("own/model.safetensors"))


def test_fetch_without_manifest(models: Path) -> None:
    run_fetch(profile().networks, Path("with.json"))
    (models / "SHA256SUMS").unlink()
    run_fetch(profile().networks, Path("without.json"))
    assert Path("with.json").read_bytes() == Path("without.json").read_bytes()


def test_failed_fetch_writes_nothing(models: Path) -> None:
    altered(models)
    with pytest.raises(FeatspaceError, match="altered"):
        run_fetch(profile().networks, Path("data/tiny/weights.json"))
    assert not Path("data/tiny").exists()
