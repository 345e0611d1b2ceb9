"""Labelled photographs: ImageNet's folders (train and val, in each a folder a class), or parquet files of images.

And how a training draws them: in which order, and which crops of them. All that is random follows from a seed, so that
a training that goes on draws what an uninterrupted one would.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pyarrow
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.utils.data import Sampler
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import is_image_file
from torchvision.transforms import v2
from tqdm import tqdm

from featspace.data.targets import slug
from featspace.utils.errors import FeatspaceError, one_line
from featspace.utils.images import open_image, read_image, to_rgb
from featspace.utils.texts import parse_json

NAMED = 5
"""Of broken files."""
LARGEST = 2**63
"""What a generator's seed stays under."""


class Photographs:
    """Photographs of one split; `photographs[i]` is an RGB image.

    Attributes:
        names: of the photographs, in a fixed order.
        labels: index into `classes` of each.
        classes: names of the classes.
    """

    def __init__(self, sources: Sequence[Path | bytes], names: list[str], labels: list[int], classes: list[str]):
        self._sources, self.names, self.labels, self.classes = sources, names, labels, classes

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Image.Image:
        """Raises FeatspaceError, which names the file, if it cannot be read."""
        source = self._sources[index]
        if isinstance(source, Path):
            return read_image(source)
        try:
            return to_rgb(open_image(io.BytesIO(source)))
        except Exception as error:  # Pillow's decoders raise any class for a damaged file
            raise FeatspaceError(f"{self.names[index]}: the image is damaged ({one_line(error)})") from error

    def check(self, indices: Sequence[int] | None = None) -> None:
        """Raises FeatspaceError that counts and names the photographs, or those of `indices`, that are damaged.

        It looks at the head and the end of each file, which takes a fraction of a millisecond.
        """
        indices = range(len(self)) if indices is None else indices
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(_broken, (self._sources[index] for index in indices))
            seen = tqdm(found, "check photographs", len(indices), unit="file", leave=False)
            broken = [self.names[index] for index, is_broken in zip(indices, seen, strict=True) if is_broken]
        if broken:
            more = f" and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
            count = f"{len(broken)} of {len(indices)} photographs are damaged"
            raise FeatspaceError(f"{count}: {', '.join(broken[:NAMED])}{more}; get them again, or remove them")

    def choose(self, per_class: int, seed: int = 0) -> list[int]:
        """Indices of `per_class` photographs of each class, class by class.

        They are the first in the order of a hash of their names, so that the choice depends neither on the order of
        files nor on other classes. Raises FeatspaceError for a class with fewer.
        """
        by_class: dict[int, list[int]] = {label: [] for label in range(len(self.classes))}
        for index, label in enumerate(self.labels):
            by_class[label].append(index)
        chosen = []
        for label, members in by_class.items():
            if len(members) < per_class:
                few = f"class {self.classes[label]} has {len(members)} photographs, not {per_class}"
                raise FeatspaceError(f"{few}; lower evaluation.per_class, or complete the folder")
            members.sort(key=lambda index: hashlib.sha256(f"{seed}/{self.names[index]}".encode()).digest())
            chosen += members[:per_class]
        return chosen


def open_photographs(folder: Path | None, split: str) -> Photographs:
    """`<folder>/<split>/<class>/<image>`, or `<folder>/<split>.parquet` (columns image, label) with classes.json.

    Raises FeatspaceError if there is neither, if images lie outside of class folders, or a class is empty.
    """
    if folder is None:
        raise FeatspaceError("featinv.training.photographs is null: set it to a folder with train and val in it")
    table, images = folder / f"{split}.parquet", folder / split
    if table.is_file():
        return _from_table(table)
    if not images.is_dir():
        raise FeatspaceError(f"{images}: no such folder of photographs; set featinv.training.photographs")
    loose = [path.name for path in images.iterdir() if is_image_file(path.name)]
    if loose:
        raise FeatspaceError(
            f"{images}: {len(loose)} images lie outside of class folders, such as {min(loose)}; sort them into a "
            "folder a class"
        )
    return _from_folders(images)


def _from_folders(images: Path) -> Photographs:
    try:
        found = ImageFolder(images, allow_empty=True)
    except FileNotFoundError as error:
        split = images.name
        reason = f"holds no class folders; name a folder whose {split} has a folder a class"
        raise FeatspaceError(f"{images}: {reason}") from error
    empty = sorted(set(found.classes) - {found.classes[label] for label in found.targets})
    if empty:
        raise FeatspaceError(f"{images / empty[0]}: holds no images; complete or remove the folder")
    files = [Path(path) for path, _ in found.samples]
    return Photographs(
        files, [path.relative_to(images.parent).as_posix() for path in files], found.targets, found.classes
    )


def _from_table(path: Path) -> Photographs:
    try:
        table = pq.read_table(path)
        encoded = table["image"].combine_chunks().field("bytes").to_pylist()
        labels = table["label"].to_pylist()
        rows = parse_json((path.parent / "classes.json").read_text(encoding="utf-8"))
        rows = rows if isinstance(rows, list) else rows["classes"]
        classes = [slug(row["name"].split(",")[0]) for row in sorted(rows, key=lambda row: row["label"])]
    except (OSError, pyarrow.ArrowException, KeyError, ValueError) as error:
        raise FeatspaceError(f"{path}: no table of images and labels ({one_line(error)}); write it again") from error
    return Photographs(encoded, [f"{path.name}[{i}]" for i in range(len(labels))], labels, classes)


def _broken(source: Path | bytes) -> bool:
    try:
        with open(source, "rb") if isinstance(source, Path) else io.BytesIO(source) as file:
            with open_image(file) as image:
                kind = image.format
            file.seek(-min(file.seek(0, io.SEEK_END), 1024), io.SEEK_END)
            return kind == "JPEG" and b"\xff\xd9" not in file.read()  # its end, which some cameras write more after
    except Exception:  # as Pillow's decoders raise any class for a damaged file
        return True


class Batches(Sampler[list[tuple[int, int]]]):
    """(index, seed) of the photographs of each step from `first` to `steps`: the batches of a DataLoader.

    An epoch is a permutation drawn from (seed, epoch), and each photograph's own seed follows from `seed` and its place
    in the training. `share` is a process' own of each step, computed in `parts`, each of which is a batch.
    """

    def __init__(
        self, first: int, steps: int, batch: int, count: int, seed: int, share: slice = slice(None), parts: int = 1
    ):
        self.first, self.steps, self.batch, self.count, self.seed = first, steps, batch, count, seed
        self.share, self.parts = share, parts

    def __len__(self) -> int:
        return (self.steps - self.first) * self.parts

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, torch.empty(0)
        for step in range(self.first, self.steps):
            items = []
            for place in range(step * self.batch, (step + 1) * self.batch):
                if place // self.count != epoch:
                    epoch = place // self.count
                    generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % LARGEST)
                    order = torch.randperm(self.count, generator=generator)
                items.append((int(order[place % self.count]), (self.seed * 1_000_003_000_003 + place) % LARGEST))
            items = items[self.share]
            size = len(items) // self.parts
            yield from (items[start : start + size] for start in range(0, len(items), size))


def random_crop(size: int, min_scale: float) -> v2.Transform:
    """A random resized crop of `size` pixels a side, mirrored half of the time; it draws inside `seeded`.

    Its area is uniform in [min_scale, 1] of the image's, its aspect log-uniform in [3/4, 4/3].
    """
    crop = v2.RandomResizedCrop(size, (min_scale, 1.0), interpolation=v2.InterpolationMode.BICUBIC)
    return v2.Compose([crop, v2.RandomHorizontalFlip()])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within it torch's global generator of the CPU, from which torchvision's transforms draw, begins at `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the GPU's, too
        yield
