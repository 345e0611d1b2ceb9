"""What is seen of a decoding under way: its progress, what goes wrong, and the image along the way."""

from __future__ import annotations

import sys

import torch
from torch import Tensor
from tqdm import tqdm

from featspace.utils.errors import FeatspaceError

ESTIMATES = 8
"""How many x̂ of each image are kept, evenly over the evaluations, the first and the last among them."""


class Watch:
    """A callback of the pipeline: moves the progress bar, names samples that go unguided, keeps estimates x̂."""

    LIMIT = 10
    """Evaluations in a row without a finite gradient after which a sample has failed."""

    def __init__(self, progress: tqdm, names: list[str], evaluations: int):
        """`names` of the samples; `evaluations`: how many there will be at most."""
        self.progress, self.names = progress, names
        self.kept = {round(place * (evaluations - 1) / (ESTIMATES - 1)) for place in range(ESTIMATES)}
        self.estimates: dict[int, Tensor] = {}
        self.nearest: Tensor | None = None
        self.failures = torch.zeros(len(names), dtype=torch.int64)

    def __call__(self, _pipeline, index: int, timestep: int, seen: dict) -> None:
        if index in self.kept and seen["estimates"] is not None:
            self.estimates[index] = seen["estimates"].to("cpu", torch.float16)  # finer than the 256 levels
        now = torch.fmin(seen["distance_before"], seen["distance_after"])
        self.nearest = now if self.nearest is None else torch.fmin(self.nearest, now)
        self.progress.set_postfix(t=timestep, distance=f"{self.nearest.median().item():.4g}", refresh=False)
        self.progress.update(len(self.names))
        self.failures = (self.failures + 1) * ~seen["guided"].cpu()
        for sample in self.failures.nonzero().flatten().tolist():
            where = f"{self.names[sample]}: the guidance gradient is not finite at timestep {timestep}"
            if self.failures[sample] >= self.LIMIT:
                raise FeatspaceError(
                    f"{where}, for {self.LIMIT} evaluations in a row; check the target feature and the encoder, or "
                    "decode in float32"
                )
            if self.failures[sample] == 1:
                tqdm.write(f"{where}: left unguided there", file=sys.stderr)

    def strip(self, sample: int) -> dict[int, Tensor]:
        """The estimates of a sample, (3, H, W) float32 in [0, 1], by evaluation; none after it was done."""
        images = {index: estimates[sample].float() for index, estimates in self.estimates.items()}
        return {index: image for index, image in images.items() if image.isfinite().all()}
