"""A zip that would write outside of its folder, or fill the disk, is refused before anything is unpacked."""

from __future__ import annotations

import stat
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import pytest

from featspace.sharing import bundle
from featspace.utils.errors import FeatspaceError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder; temporary files are in `tmp` there."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(place: Path, path: str = "bundle.zip") -> str:
    before = sorted(place.rglob("*"))
    with pytest.raises(FeatspaceError) as raised, bundle.open_bundle(Path(path)):
        pass
    assert sorted(place.rglob("*")) == before and "\n" not in str(raised.value)
    return str(raised.value)


OUTSIDE, NAMED, DEVICE = "a path that leads outside", "named as no file in a bundle is", "the name of a device"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../x", OUTSIDE),
        ("a/../../x", OUTSIDE),
        ("/tmp/x", OUTSIDE),
        ("a\\..\\x", NAMED),
        ("C:x", NAMED),
        ("a\0b", NAMED),
        ("data/NUL", DEVICE),
        ("data/com1.txt", DEVICE),
    ],
)
def test_names(place, name, why):
    with ZipFile("bundle.zip", "w") as archive:
        archive.writestr("SHA256SUMS", "")
        entry = ZipInfo("x")
        entry.filename = name  # as it is
        archive.writestr(entry, "x")
    assert f" is {why}; it is not unpacked" in refused(place)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFDIR])
def test_links_and_devices(place, kind):
    with ZipFile("bundle.zip", "w") as archive:
        entry = ZipInfo("figures")
        entry.create_system, entry.external_attr = 3, (kind | 0o644) << 16
        archive.writestr(entry, "/etc/passwd")
    assert refused(place) == "bundle.zip: its entry 'figures' is a link or a device; it is not unpacked"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_and_a_file_that_is_a_folder(place):
    with ZipFile("bundle.zip", "w") as archive:
        archive.writestr("a", "1")
        archive.writestr("a", "2")
    assert "'a' is there twice" in refused(place)
    with ZipFile("bundle.zip", "w") as archive:
        archive.writestr("a", "1")
        archive.writestr("a/b", "2")
    assert "bundle.zip: no zip, or cut short or damaged" in refused(place)


def test_sizes(place, monkeypatch):
    with ZipFile("bundle.zip", "w", ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10_000_000))
    assert refused(place) == "bundle.zip: it says to unpack to 10.0MB, over 10 times its size; it is not unpacked"
    with ZipFile("bundle.zip", "w") as archive:
        archive.writestr("zeros", bytes(10_000))
    monkeypatch.setattr(bundle.shutil, "disk_usage", lambda path: type("", (), {"free": 9_999}))
    assert "bundle.zip: 10.0kB to unpack, and " in refused(place)
    monkeypatch.setattr(bundle, "ENTRIES", 0)
    assert "bundle.zip: 1 files, more than the 0 that a bundle may have" in refused(place)


def test_a_zip_that_says_less_than_it_holds_is_damaged(place):
    """The size in the directory is what is unpacked at most, and then the sum does not fit."""
    with ZipFile("bundle.zip", "w", ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(1_000_000))
    content = Path("bundle.zip").read_bytes()
    size = (1_000_000).to_bytes(4, "little")
    Path("bundle.zip").write_bytes(content.replace(size, (5_000).to_bytes(4, "little")))
    assert "bundle.zip: no zip, or cut short or damaged (Bad CRC-32 for file 'zeros')" in refused(place)


def test_a_folder_with_a_link(place):
    Path("bundle").mkdir()
    Path("bundle/figures").symlink_to("/etc")
    assert refused(place, "bundle").startswith("bundle/figures: a link or a device, which no bundle has")
