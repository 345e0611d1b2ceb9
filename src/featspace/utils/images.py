"""Photographs in, PNGs out: everything between a file and a tensor in [0, 1]."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from featspace.utils.errors import FeatspaceError, UsageError

if TYPE_CHECKING:
    import torch  # takes a second, which figures and targets need not wait for

MIN_SIDE = 8
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".gif", ".bmp"}  # of images in a folder
LARGEST = 150_000_000
"""Pixels of an image, at most; what its head says of more is not decoded."""
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "PPM")
"""Those that are read. Of others Pillow knows some that another program is started for."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF's orientation: what turns the image upright."""


def images_in(folder: Path) -> list[Path]:
    """The files in a folder that are images by their suffix, by name, without the hidden ones."""
    images = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    return [file for file in images if not file.name.startswith(".")]  # such as macOS leaves beside each


def open_image(file: Path | IO[bytes]) -> Image.Image:
    """An image of which nothing but its head is decoded. Of several frames the first is the image.

    Raises UnidentifiedImageError if it is of none of the FORMATS, DecompressionBombError if it has more pixels than
    LARGEST, and whatever Pillow raises for a damaged one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # of its own, lower limit
        image = Image.open(file, formats=FORMATS)
    if image.width * image.height > LARGEST:
        image.close()
        raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels")
    return image


def read_image(path: Path) -> Image.Image:
    """The image in a file as 8-bit sRGB by its color profile, turned upright as its EXIF says, transparency over white.

    Raises FeatspaceError for a missing file, a folder, a file that is no image or is damaged, 32-bit pixels,
    and an image with a side below 8 pixels or more pixels than LARGEST.
    """
    path = Path(path)
    if path.is_dir():
        raise FeatspaceError(f"{path}: is a folder, not an image; name a file in it")
    try:
        with open_image(path) as image:
            image.verify()  # the sums in a PNG, which loading does not look at
        with open_image(path) as image:
            image.load()
            upright = to_rgb(_turned(image))
    except FileNotFoundError as error:
        raise FeatspaceError(f"{path}: no such file; check the path") from error
    except PermissionError as error:
        raise FeatspaceError(f"{path}: no permission to read it") from error
    except UnidentifiedImageError as error:
        known = "PNG, JPEG, WebP, TIFF, GIF and BMP are read"
        raise FeatspaceError(f"{path}: not an image, or one without its beginning ({known}); get it again") from error
    except Image.DecompressionBombError as error:
        raise FeatspaceError(f"{path}: more than {LARGEST:,} pixels; scale the image down first") from error
    except _Unsupported as error:
        raise FeatspaceError(f"{path}: {error}; save it with 8 or 16 bits a channel") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise any class for a damaged file
        raise FeatspaceError(f"{path}: the image is damaged or cut short ({error}); get it again") from error
    if min(upright.size) < MIN_SIDE:
        width, height = upright.size
        raise FeatspaceError(f"{path}: {width}x{height} pixels; each side must be at least {MIN_SIDE}")
    return upright


def _turned(image: Image.Image) -> Image.Image:
    """Upright, as EXIF says; EXIF data that cannot be read say nothing."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except (OSError, SyntaxError, ValueError, struct.error):
        return image
    turn = TURNS.get(orientation or 1)
    return image if turn is None else image.transpose(turn)


class _Unsupported(Exception):
    pass


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit sRGB by the image's color profile, transparency over white."""
    if image.mode in ("I", "F"):
        raise _Unsupported("32-bit pixels have no known white level")
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255 instead of scaling
        gray = np.asarray(image).astype(np.float64) / 257
        return Image.fromarray(np.round(gray).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = _managed(image if image.mode == "LA" else image.convert("RGBA"), "RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return _managed(image.convert("RGB") if image.mode == "P" else image, "RGB")


def _managed(image: Image.Image, mode: str) -> Image.Image:
    """In `mode`, RGB or RGBA, its colors brought to sRGB; a profile that cannot be read, or does not fit, says nothing.

    The rendering intent is relative colorimetric, which leaves alone what both gamuts have.
    """
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK", "LAB"):
        return image.convert(mode)
    colors = image.convert("RGB" if image.mode == "RGBA" else "L") if image.mode in ("RGBA", "LA") else image
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        managed = ImageCms.profileToProfile(colors, own, ImageCms.createProfile("sRGB"), intent, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image.convert(mode)
    assert managed is not None  # it is not made in place
    if mode == "RGBA":
        managed.putalpha(image.getchannel("A"))
    return managed


def square(image: Image.Image, size: int, crop: Sequence[int] | None = None) -> Image.Image:
    """A square crop, resized to (size, size) by antialiased bicubic interpolation.

    `crop` is (left, top, side) in pixels of the image, by default the largest centered square. Raises
    UsageError if it leaves the image.
    """
    width, height = image.size
    if crop is None:
        side = min(width, height)
        crop = ((width - side) // 2, (height - side) // 2, side)
    left, top, side = crop
    if left < 0 or top < 0 or side < 1 or left + side > width or top + side > height:
        raise UsageError(
            f"crop [{left}, {top}, {side}] leaves the image of {width}x{height} pixels: "
            f"left + side can be at most {width}, top + side at most {height}"
        )
    cut = image.crop((left, top, left + side, top + side))
    return cut.resize((size, size), Image.Resampling.BICUBIC)  # Pillow widens the kernel when it shrinks


def to_tensor(image: Image.Image) -> torch.Tensor:
    """An RGB image as (3, H, W), float32 in [0, 1]."""
    import torch

    pixels = torch.from_numpy(np.array(image.convert("RGB")))
    return pixels.permute(2, 0, 1).contiguous().float() / 255


def to_pil(image: torch.Tensor) -> Image.Image:
    """A tensor (3, H, W), clamped to [0, 1] and rounded to 8 bits. Raises FeatspaceError if not finite."""
    if not image.isfinite().all():
        raise FeatspaceError("an image has NaN or infinite pixels: the computation of it has diverged")
    pixels = image.detach().float().clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def save_png(path: Path, image: torch.Tensor) -> None:
    """Saves a tensor (3, H, W) in [0, 1] as 8-bit RGB PNG: no metadata, same bytes for same pixels."""
    to_pil(image).save(path, format="PNG", compress_level=6)


def shifted(photo: Image.Image) -> Image.Image:
    """The photograph moved one pixel to the right, its left edge replicated."""
    pixels = np.asarray(photo)
    return Image.fromarray(np.concatenate([pixels[:, :1], pixels[:, :-1]], axis=1))


def jpeg_copy(photo: Image.Image, quality: int) -> Image.Image:
    """The photograph after JPEG compression with Pillow's default chroma subsampling, quality 1 to 95."""
    buffer = io.BytesIO()
    photo.save(buffer, format="JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")
