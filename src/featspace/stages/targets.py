"""Photographs cropped and captions listed: what `featspace targets` does."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from featspace.config.params import Profile
from featspace.data.targets import Target, locate_image, slug, write_list
from featspace.utils.errors import FeatspaceError, UsageError
from featspace.utils.files import atomic_dir
from featspace.utils.images import images_in, read_image, save_png, square, to_tensor
from featspace.utils.texts import parse_json


def run_targets(profile: Profile, root: Path, out: Path) -> None:
    """Writes each photo of a profile as `<id>.png`, profile.resolution pixels square, and targets.csv.

    A photo that is a folder stands for all images in it, as `<name>_<file name>`; a photo's caption in
    profile.captions_file becomes the target `caption_<id>`, unless profile.captions has one of that name. Paths are
    relative to `root`.

    Raises FeatspaceError if a photo or the captions cannot be read or had, UsageError if a crop leaves its photo, two
    targets have the same id, or there is no image of a `skimage:` or `paper:` name.
    """
    photos = list(_photos(profile, root))
    captions = dict(profile.captions)
    if profile.captions_file is not None:
        for name, text in _read_captions(root / profile.captions_file, photos).items():
            captions.setdefault(name, text)
    rows = [Target(photo.id, "photo", "", photo.source) for photo in photos]
    rows += [Target(name, "caption", text, "") for name, text in captions.items()]
    if repeated := [name for name, count in Counter(row.id for row in rows).items() if count > 1]:
        both = " and ".join([row.source or f"the caption {row.text!r}" for row in rows if row.id == repeated[0]][:2])
        raise UsageError(f"two targets have the id {repeated[0]}, {both}; rename a photo, a file or a caption")
    with atomic_dir(out) as partial:
        for photo in photos:
            image = read_image(photo.path)
            try:
                image = square(image, profile.resolution, photo.crop)
            except UsageError as error:
                raise UsageError(f"photos.{photo.id} ({photo.source}): {error}") from error
            save_png(partial / f"{photo.id}.png", to_tensor(image))
        write_list(partial, rows)


class _Photo(NamedTuple):
    id: str
    source: str
    path: Path
    crop: list[int] | None


def _photos(profile: Profile, root: Path) -> Iterator[_Photo]:
    for name, photo in profile.photos.items():
        path = locate_image(photo.image, root)
        if not path.is_dir():
            yield _Photo(name, photo.image, path, photo.crop)
            continue
        images = images_in(path)
        if not images:
            raise FeatspaceError(f"{path}: photos.{name} is a folder without an image; name another")
        for file in images:
            yield _Photo(f"{name}_{slug(file.stem)}", f"{photo.image}/{file.name}", file, photo.crop)


def _read_captions(path: Path, photos: list[_Photo]) -> dict[str, str]:
    """The first caption that a captions file of MS COCO has for each photo, by the target's id."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        images = {image["file_name"]: image["id"] for image in content.get("images", [])}
        texts: dict[int, str] = {}
        for annotation in content["annotations"]:
            texts.setdefault(annotation["image_id"], " ".join(annotation["caption"].split()))
    except FileNotFoundError as error:
        raise FeatspaceError(f"{path}: no such file of captions; check captions_file in the parameters") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:  # not JSON, or of another shape
        form = "images (id, file_name) and annotations (image_id, caption)"
        raise FeatspaceError(f"{path}: not a captions file as of MS COCO, JSON with {form}") from error
    found = {}
    for photo in photos:
        number = re.fullmatch(r"(?:COCO_\w+_)?0*(\d+)", photo.path.stem)  # MS COCO's files are named by image id
        image_id = images.get(photo.path.name, int(number[1]) if number else None)
        if image_id is not None and (text := texts.get(image_id)):
            found[f"caption_{photo.id}"] = text
    if not found:
        raise FeatspaceError(f"{path}: has a caption of none of the photos, which it finds by file name or image id")
    return found
