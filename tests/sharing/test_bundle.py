"""A profile's bundle: the same bytes each time, measured by who has nothing else, and refused where it was altered."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import chdir
from importlib.metadata import version
from pathlib import Path
from zipfile import ZipFile

import pandas as pd
import pytest
import toy_published
from rocrate.rocrate import ROCrate

from featspace.cli import main
from featspace.utils.checksums import write_checksums

SUMS, CRATE = "SHA256SUMS", "ro-crate-metadata.json"


@pytest.fixture(scope="module")
def checkout(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy project, built and committed; to be copied, not changed."""
    root = toy_published.build(project, tmp_path_factory.mktemp("checkout") / "toy")
    toy_published.publish(root)
    return root


@pytest.fixture(scope="module")
def bundle(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "bundle.zip"
    with chdir(checkout):
        main(["export", "--out", str(path)])
    return path


@pytest.fixture
def folder(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bundle, unpacked, in the current folder; temporary files are in `tmp` there."""
    monkeypatch.chdir(tmp_path)
    with ZipFile(bundle) as archive:
        archive.extractall("bundle")
    Path("tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return Path("bundle")


def refused(capsys: pytest.CaptureFixture, *words: str, status: int = 1) -> tuple[list[str], str]:
    """The lines that a command which ends with `status` prints, and its error, of one line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*words])
    printed, error = capsys.readouterr()
    (line,) = error.splitlines()
    assert ended.value.code == status and line.startswith("featspace: error: ")
    return printed.splitlines(), line.removeprefix("featspace: error: ")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def resum(folder: Path) -> None:
    with chdir(folder):
        write_checksums([Path(name) for name in os.listdir()], Path(SUMS))


def test_who_has_the_bundle_alone_measures_it_again(folder, bundle, capsys):
    before = contents(folder)
    main(["verify", str(folder), "--out", "out.csv"])
    assert "All 12 outputs of mini that need no decoding agree with the 2 that do" in capsys.readouterr().out
    assert set(pd.read_csv("out.csv")["says"]) == {"agrees", "taken as published"}
    assert contents(folder) == before
    assert not any(Path("tmp").iterdir())


def test_the_same_checkout_gives_the_same_bytes(checkout, bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(checkout, tmp_path / "other"))
    for path in Path().rglob("*"):
        os.utime(path, (1e9, 1e9))
    main(["export", "--out", str(tmp_path / "again.zip")])
    assert (tmp_path / "again.zip").read_bytes() == bundle.read_bytes()


def test_it_holds_what_the_pipeline_says_and_the_sums_of_it(checkout, bundle, folder, tmp_path, monkeypatch):
    names = set(contents(folder))
    top = {SUMS, CRATE, "dvc.yaml", "dvc.lock", "params.yaml", "requirements.lock", "LICENSE", "CITATION.cff"}
    assert {name for name in names if "/" not in name} == top
    figures = {name for name in contents(checkout) if name.startswith("figures/mini/") and "/." not in name}
    assert {name for name in names if name.startswith("figures/")} == figures and "figures/mini/report.html" in figures
    assert {"data/mini/decoded/clip/cat-0.png", "data/models/judge/model.safetensors"} < names
    assert not [name for name in names if "/." in name or name.startswith((".", "src"))]
    done = subprocess.run(["sha256sum", "-c", SUMS], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == len(names) - 1
    # What lies beside the outputs is not part of it.
    monkeypatch.chdir(shutil.copytree(checkout, tmp_path / "other"))
    Path("data/mini/decoded/other").mkdir()
    Path("data/mini/decoded/other/x.png").write_bytes(b"x")
    main(["export", "--out", "again.zip"])
    assert Path("again.zip").read_bytes() == bundle.read_bytes()


def test_its_metadata_says_what_is_in_it(checkout, folder):
    crate = ROCrate(str(folder))
    date = subprocess.run(["git", "log", "-1", "--format=%cI %H"], cwd=checkout, capture_output=True, text=True).stdout
    assert f"{crate.root_dataset['datePublished']} {crate.root_dataset['version']}" == date.strip()
    assert crate.root_dataset["license"].id == "https://spdx.org/licenses/Apache-2.0"
    assert crate.root_dataset["author"]["name"] == "The featspace contributors"
    papers = {paper.id for paper in crate.root_dataset["citation"]}
    assert papers == {"https://arxiv.org/abs/2509.07936", "https://arxiv.org/abs/2505.21032"}
    assert crate.mainEntity.id == "dvc.yaml" and crate.mainEntity["programmingLanguage"]["name"] == "DVC"
    torch = next(x for x in crate.get("#featspace")["softwareRequirements"] if x["name"] == "torch")
    assert f"torch=={torch['version']}" in (folder / "requirements.lock").read_text()
    figure, table = crate.get("figures/mini/figure3.png"), crate.get("figures/mini/similarity-clip.csv")
    assert figure["name"].startswith("Figure 3: ") and "CLIP" in figure["description"]
    assert table["description"].startswith("Each saved image against its target")
    decoded = crate.get("data/mini/decoded/clip/")
    assert decoded["description"] == "Decode the features of one encoder into images"
    for part in crate.data_entities:
        assert (folder / part.id).exists()
    licensed = {part.id: part["license"] for part in crate.data_entities if part.get("license")}
    assert set(licensed) == {"data/models/", "data/mini/targets/"}
    assert licensed["data/models/"]["name"] == "For research only"
    assert (
        licensed["data/mini/targets/"].type == "CreativeWork"
        and "targets.csv" in licensed["data/mini/targets/"]["description"]
    )
    assert "data/models, data/mini/targets and what shows them have licenses of their own" in crate.description


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("data/mini/decoded/clip/cat-0.png", "altered"),
        ("figures/mini/similarity-clip.csv", "altered"),
        ("data/models/judge/model.safetensors", "altered"),
        (CRATE, "altered"),
        ("data/mini/decoded/resnet/trace.parquet", "missing"),
        ("figures/mini/figure3.pdf", "missing"),
        ("data/mini/decoded/clip/other.png", "not listed"),
        (".dvc/config", "not listed"),
    ],
)
def test_a_file_that_is_not_as_its_sum_says_is_named(folder, capsys, name, why):
    path = folder / name
    if why == "altered":
        content = path.read_bytes()
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif why == "missing":
        path.unlink()
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    printed, error = refused(capsys, "verify", "bundle")
    assert printed == [f"{name}: {why}"]
    assert error == f"bundle: 1 file is not as SHA256SUMS says ({name}: {why}); get it again"
    assert not any(Path("tmp").iterdir())


def test_who_mends_the_sums_too_is_found_by_measuring(folder, capsys):
    path = folder / "figures/mini/references-resnet.csv"
    row = path.read_text().splitlines()[1].split(",")
    path.write_text(path.read_text().replace(f",{row[-1]}\n", f",{float(row[-1]) - 0.001:.6g}\n", 1))
    with chdir(folder):
        write_checksums([Path("data/mini"), Path("figures/mini")], Path("figures/mini") / SUMS, [toy_published.PAGE])
    resum(folder)
    printed, error = refused(capsys, "verify", "bundle")
    assert any(line.startswith("    row 1 (resnet, cat, ") for line in printed)
    assert error == "1 of 12 outputs of mini does not agree: figures/mini/references-resnet.csv"


def test_what_is_no_bundle_of_this_version_is_one_line(bundle, folder, capsys):
    whole = bundle.read_bytes()
    for name, content in (("short.zip", whole[: len(whole) // 2]), ("text.zip", b"text"), ("empty.zip", b"")):
        Path(name).write_bytes(content)
        error = refused(capsys, "verify", name)[1]
        assert error == f"{name}: no zip, or cut short or damaged (File is not a zip file); get it again"
    # A byte of a file whose directory is whole
    place = whole.index(b"\x89PNG") + 20
    Path("byte.zip").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    error = refused(capsys, "verify", "byte.zip")[1]
    assert re.match(r"byte.zip: no zip, .* \(Bad CRC-32 for file 'data/mini/.*png'\)", error)
    assert refused(capsys, "verify", "none.zip", status=2)[1].startswith("none.zip: no such bundle; name")
    error = "tmp: no bundle of `featspace export`, as there is no SHA256SUMS; name another"
    assert refused(capsys, "verify", "tmp")[1] == error
    tree = (folder / CRATE).read_text()
    (folder / CRATE).write_text(tree.replace(f'"version": "{version("featspace")}"', '"version": "7.1"'))
    resum(folder)
    assert "bundle: written by featspace 7.1, and this is 0." in refused(capsys, "verify", "bundle")[1]
    (folder / CRATE).write_text(tree)
    (folder / "figures/paper").mkdir()
    (folder / "figures/paper/table.csv").write_text("")
    resum(folder)
    assert refused(capsys, "verify", "bundle")[1] == "bundle: of 2 profiles, not of one; get it again"


def test_a_bundle_of_another_profile_or_of_less_is_named(folder, capsys):
    error = "bundle: a bundle of mini, not of paper; leave out --profile, or name another bundle"
    assert refused(capsys, "verify", "bundle", "--profile", "paper", status=2)[1] == error
    shutil.rmtree(folder / "data/mini/decoded/clip")
    resum(folder)
    error = "bundle/data/mini/decoded/clip: not there; get the bundle again"
    assert refused(capsys, "verify", "bundle")[1] == error
    (folder / "dvc.yaml").write_text("stages: [")
    resum(folder)
    assert refused(capsys, "verify", "bundle", status=2)[1].startswith("bundle/dvc.yaml: ")
    (folder / "dvc.yaml").unlink()
    resum(folder)
    assert refused(capsys, "verify", "bundle", status=2)[1] == "bundle/dvc.yaml: not there; get the bundle again"


def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(checkout, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(shutil.copytree(checkout, tmp_path / "toy"))
    (tmp_path / "out").mkdir()
    out = ["export", "--out", str(tmp_path / "out/bundle.zip")]

    def fails(*words: str, status: int = 1) -> str:
        line = refused(capsys, *(words or out), status=status)[1]
        assert not any((tmp_path / "out").iterdir())
        return line

    assert fails("export", "--out", "bundle", status=2) == "bundle: a bundle is a zip file; name one, such as mini.zip"
    assert fails(*out, "--profile", "maxi", status=2).startswith("maxi: no stage of dvc.yaml writes data/maxi")
    page = Path("figures/mini/report.html").rename(tmp_path / "page")
    assert fails() == "figures/mini/report.html: not there; make it with `featspace report --profile mini`"
    page.rename("figures/mini/report.html")
    Path("params.yaml").write_text(Path("params.yaml").read_text() + "\n")
    assert fails() == "params.yaml: not as in the commit, which a bundle names; commit it first"
    toy_published.git("checkout", "params.yaml")
    Path("CITATION.cff").unlink()
    assert fails() == "CITATION.cff: not there; restore it, in a checkout with: git checkout -- CITATION.cff"
    toy_published.git("checkout", "CITATION.cff")
    shutil.rmtree("data/mini/decoded/clip")
    build = "not there; build it with `dvc repro mini`, or fetch it with `dvc pull --with-deps mini`"
    assert fails() == f"data/mini/decoded/clip: {build}"
    shutil.rmtree("data/mini/decoded/resnet")
    assert fails() == f"data/mini/decoded/clip and 1 more: {build}"
    toy_published.git("checkout", ".")
    monkeypatch.chdir(tmp_path)
    assert fails(status=2) == "dvc.yaml: not there; run this in a checkout of featspace"


def test_a_source_archive_has_no_commit_to_name(checkout, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(shutil.copytree(checkout, tmp_path / "toy", ignore=shutil.ignore_patterns(".git")))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert "no git checkout with a commit" in refused(capsys, "export", "--out", "bundle.zip")[1]
    assert not Path("bundle.zip").exists()
