"""Images: every kind of file becomes the right 8-bit RGB, or one line that says why not."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from featspace.utils.errors import FeatspaceError, UsageError
from featspace.utils.images import read_image, save_png, square, to_pil, to_tensor


def noise(height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_rgb_is_read_as_it_is(tmp_path: Path) -> None:
    Image.fromarray(noise()).save(tmp_path / "x.png")
    image = read_image(tmp_path / "x.png")
    assert image.mode == "RGB" and np.array_equal(np.asarray(image), noise())
    tensor = to_tensor(image)
    assert tensor.shape == (3, 20, 30) and tensor.dtype == torch.float32
    assert torch.equal(tensor[:, 5, 7], torch.from_numpy(noise()[5, 7]).float() / 255)


def test_transparency_is_over_white(tmp_path: Path) -> None:
    for alpha, expected in ((0, (255, 255, 255)), (255, (200, 0, 0)), (51, (244, 204, 204))):
        Image.new("RGBA", (10, 10), (200, 0, 0, alpha)).save(tmp_path / "x.png")
        assert read_image(tmp_path / "x.png").getpixel((3, 3)) == expected
    Image.new("LA", (10, 10), (80, 0)).save(tmp_path / "la.png")
    assert read_image(tmp_path / "la.png").getpixel((0, 0)) == (255, 255, 255)


def test_palette(tmp_path: Path) -> None:
    image = Image.new("P", (10, 10), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    image.save(tmp_path / "x.png")
    image.save(tmp_path / "t.png", transparency=1)
    assert read_image(tmp_path / "x.png").getpixel((0, 0)) == (10, 200, 30)
    assert read_image(tmp_path / "t.png").getpixel((0, 0)) == (255, 255, 255)


def test_cmyk_and_gray(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=95)
    red = read_image(tmp_path / "c.jpg").getpixel((8, 8))
    assert red[0] > 240 and max(red[1:]) < 15
    Image.new("L", (16, 16), 77).save(tmp_path / "g.png")
    assert read_image(tmp_path / "g.png").getpixel((8, 8)) == (77, 77, 77)


def profile(swapped: bool) -> bytes:
    """sRGB's color profile; swapped: with red and blue in each other's place."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return data.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ") if swapped else data


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colors_are_brought_to_srgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(noise()).quantize(16) if mode == "P" else Image.fromarray(noise()).convert(mode)
    for swapped, order in ((False, [0, 1, 2]), (True, [2, 1, 0])):
        image.save(tmp_path / "x.png", icc_profile=profile(swapped))
        found = np.asarray(read_image(tmp_path / "x.png")).astype(int)
        assert np.abs(found - np.asarray(image.convert("RGB"))[..., order]).max() <= 1


def test_transparency_of_managed_colors(tmp_path: Path) -> None:
    Image.new("RGBA", (10, 10), (200, 0, 0, 51)).save(tmp_path / "x.png", icc_profile=profile(swapped=True))
    assert read_image(tmp_path / "x.png").getpixel((3, 3)) == (204, 204, 244)


@pytest.mark.parametrize("data", [b"no profile", profile(swapped=True)[:200]])
def test_a_profile_that_cannot_be_read_says_nothing(tmp_path: Path, data: bytes) -> None:
    Image.fromarray(noise()).save(tmp_path / "x.png", icc_profile=data)
    Image.fromarray(noise()).convert("L").save(tmp_path / "l.png", icc_profile=profile(swapped=True))  # not a gray one
    assert np.array_equal(np.asarray(read_image(tmp_path / "x.png")), noise())
    gray = np.asarray(Image.fromarray(noise()).convert("L"))
    assert np.array_equal(np.asarray(read_image(tmp_path / "l.png"))[..., 0], gray)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled(tmp_path: Path, suffix: str) -> None:
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / f"x.{suffix}")
    assert np.array_equal(np.asarray(read_image(tmp_path / f"x.{suffix}"))[..., 1].ravel(), np.arange(256))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path: Path, orientation: int) -> None:
    image = Image.fromarray(noise())
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as saved:
        expected = ImageOps.exif_transpose(saved)
    assert np.array_equal(np.asarray(read_image(tmp_path / "x.png")), np.asarray(expected))


def test_exif_that_cannot_be_written_again_is_no_damage(tmp_path: Path) -> None:
    """A resolution of −1/0, beside an orientation that means something."""
    entries = struct.pack("<HHHIHH", 2, 0x0112, 3, 1, 3, 0) + struct.pack("<HHII", 0x011A, 10, 1, 38)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + entries + struct.pack("<Iii", 0, -1, 0)
    Image.fromarray(noise()).save(tmp_path / "x.jpg", exif=exif, quality=95)
    with Image.open(tmp_path / "x.jpg") as image:
        turned = np.asarray(image.convert("RGB"))[::-1, ::-1]
        with pytest.raises(struct.error):
            ImageOps.exif_transpose(image)
    assert np.array_equal(np.asarray(read_image(tmp_path / "x.jpg")), turned)


@pytest.mark.parametrize("kind", ["AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"])
def test_no_mutated_file_ends_in_another_error(tmp_path: Path, kind: str) -> None:
    """Of every other file the head alone is changed, where a format says what it holds; every tenth is cut as well."""
    buffer, random = io.BytesIO(), np.random.default_rng(0)
    Image.fromarray(noise(32, 32)).save(buffer, kind)
    path = tmp_path / f"x.{kind.lower()}"
    for number in range(300):
        content = bytearray(buffer.getvalue())
        for place in random.integers(200 if number % 2 else len(content), size=4):
            content[place] = random.integers(256)
        if number % 10 == 0:
            del content[random.integers(len(content)) :]
        path.write_bytes(content)
        with contextlib.suppress(FeatspaceError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert read_image(path).mode == "RGB"


@pytest.mark.parametrize("type_of_tag", [2, 5, 7])
def test_a_tag_of_another_type_than_the_format_says_is_damage(tmp_path: Path, type_of_tag: int) -> None:
    """Text, a fraction or bytes as the number of rows, over which Pillow stumbles."""
    Image.fromarray(noise(32, 32)).save(tmp_path / "x.tif")
    content = bytearray((tmp_path / "x.tif").read_bytes())
    content[72] = type_of_tag
    (tmp_path / "x.tif").write_bytes(content)
    with pytest.raises(TypeError), Image.open(tmp_path / "x.tif") as image:
        image.load()
    with pytest.raises(FeatspaceError, match=r"x\.tif: the image is damaged or cut short .*; get it again"):
        read_image(tmp_path / "x.tif")


def damaged(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(200, 200)).save(buffer, kind)
    return buffer.getvalue()[: len(buffer.getvalue()) // 2]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
def test_truncated(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x").write_bytes(damaged(kind))
    with pytest.raises(FeatspaceError, match=r"x: (the image is damaged or cut short|not an image)"):
        read_image(tmp_path / "x")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_no_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "notes.txt").write_bytes(content)
    with pytest.raises(FeatspaceError, match=r"notes\.txt: (not an image|the image is damaged)") as caught:
        read_image(tmp_path / "notes.txt")
    assert "\n" not in str(caught.value)


def test_missing_folder_small_and_32_bit(tmp_path: Path) -> None:
    with pytest.raises(FeatspaceError, match=r"none\.png: no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(FeatspaceError, match="is a folder, not an image"):
        read_image(tmp_path)
    Image.fromarray(noise(7, 30)).save(tmp_path / "s.png")
    with pytest.raises(FeatspaceError, match=r"s\.png: 30x7 pixels; each side must be at least 8"):
        read_image(tmp_path / "s.png")
    Image.fromarray(noise(8, 8)).save(tmp_path / "e.png")
    assert read_image(tmp_path / "e.png").size == (8, 8)
    Image.fromarray(np.ones((9, 9), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(FeatspaceError, match="32-bit pixels"):
        read_image(tmp_path / "f.tif")


def test_square_crops_and_shrinks_without_aliasing() -> None:
    image = Image.fromarray(noise(20, 30))
    assert np.array_equal(np.asarray(square(image, 20)), noise(20, 30)[:, 5:25])
    assert np.array_equal(np.asarray(square(image, 9, [3, 2, 9])), noise(20, 30)[2:11, 3:12])
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255  # a pattern finer than the result can show has to become gray
    assert abs(np.asarray(square(Image.fromarray(stripes), 16)).astype(int) - 127.5).max() < 12
    for crop in ([25, 0, 6], [0, 15, 6], [-1, 0, 5], [0, 0, 0]):
        with pytest.raises(UsageError, match="leaves the image of 30x20 pixels"):
            square(image, 8, crop)


def test_png_round_trip_and_bytes(tmp_path: Path) -> None:
    tensor = to_tensor(Image.fromarray(noise()))
    save_png(tmp_path / "a.png", tensor)
    save_png(tmp_path / "b.png", tensor.double().requires_grad_())
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.info == {}
    assert torch.equal(to_tensor(read_image(tmp_path / "a.png")), tensor)
    assert to_pil(torch.tensor([-1.0, 0.4999, 2.0]).view(3, 1, 1)).getpixel((0, 0)) == (0, 127, 255)
    with pytest.raises(FeatspaceError, match="NaN"):
        to_pil(torch.full((3, 8, 8), torch.nan))
