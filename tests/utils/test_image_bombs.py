"""Images that would fill the memory, or start another program: refused by their heads, in one line."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image

from featspace.data.photographs import Photographs
from featspace.utils.errors import FeatspaceError
from featspace.utils.images import LARGEST, open_image, read_image


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *others: bytes) -> bytes:
    """What a PNG of these sides begins with; its pixels are those of a tiny one."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + head + b"".join(others) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


def tiff(width: int, height: int) -> bytes:
    entries = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 4}
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + struct.pack("<I", 0)


def bmp(width: int, height: int) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head


def gif(width: int, height: int) -> bytes:
    size = struct.pack("<HH", width, height)
    return b"GIF89a" + size + b"\0\0\0" + b"," + struct.pack("<HH", 0, 0) + size + b"\0" + b"\x02\x01\x00\x00;"


BOMB = zlib.compress(bytes(200_000_000), 9)
TEXT = chunk(b"zTXt", b"Comment\0\0" + BOMB)
PROFILE = chunk(b"iCCP", b"x\0\0" + BOMB)
LARGE = f"more than {LARGEST:,} pixels; scale the image down first"
BOMBS = {
    "wide.png": (png(2**31 - 1, 8), LARGE),
    "square.png": (png(12_248, 12_248), LARGE),  # Pillow alone would only warn
    "huge.png": (png(100_000, 100_000), LARGE),
    "large.tif": (tiff(60_000, 60_000), LARGE),
    "large.bmp": (bmp(60_000, 60_000), LARGE),
    "large.gif": (gif(60_000, 60_000), LARGE),
    "text.png": (png(32, 32, TEXT), "the image is damaged or cut short"),
    "profile.png": (png(32, 32, PROFILE), "the image is damaged or cut short"),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.filterwarnings("error")
def test_a_bomb_is_refused_and_not_decoded(name: str, tmp_path: Path) -> None:
    content, message = BOMBS[name]
    (tmp_path / name).write_bytes(content)
    tracemalloc.start()
    with pytest.raises(FeatspaceError) as caught:
        read_image(tmp_path / name)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(caught.value).startswith(f"{tmp_path / name}: {message}") and str(caught.value).isprintable()
    assert peak < 20_000_000
    with pytest.raises(FeatspaceError, match=r"^x\[0\]: "):
        Photographs([content], ["x[0]"], [0], ["x"])[0]


def test_the_limit_is_one_of_pixels() -> None:
    side = int(LARGEST**0.5)
    assert open_image(io.BytesIO(png(side, side))).size == (side, side)
    with pytest.raises(Image.DecompressionBombError):
        open_image(io.BytesIO(png(side + 1, side + 1)))


def test_a_stereo_photograph_is_its_first_view(tmp_path: Path) -> None:
    """MPO, which is JPEG with more behind it."""
    red, black = (Image.new("RGB", (32, 32), color) for color in ("red", "black"))
    red.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[black])
    assert read_image(tmp_path / "x.jpg").getpixel((9, 9))[0] > 240


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_many_frames_only_the_first_is_decoded(kind: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (64, 64), (8 * i % 256, 0, 255)) for i in range(200)]
    frames[0].save(tmp_path / "x", kind, save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "x") as image:
        assert image.n_frames > 100
    assert read_image(tmp_path / "x").getpixel((9, 9))[0] < 8


def test_no_program_is_started_for_a_format_that_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow decodes EPS by Ghostscript."""

    def start(*given: object) -> None:
        raise AssertionError("Ghostscript was started")

    Image.new("RGB", (32, 32)).save(tmp_path / "x.png", "EPS")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", start)
    with pytest.raises(AssertionError), Image.open(tmp_path / "x.png") as image:
        image.load()
    with pytest.raises(FeatspaceError, match=r"x\.png: not an image, or one without its beginning \(PNG"):
        read_image(tmp_path / "x.png")
