"""What a ControlNet's training draws of a photograph: a crop, noise, a timestep."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

from featspace.config.featinv import TrainingParams
from featspace.data.photographs import Photographs, random_crop, seeded
from featspace.utils.images import to_tensor


class Draws(Dataset):
    """A crop of a photograph with its noise and timestep, drawn from a seed: the item of (index, seed).

    (crop (3, S, S) in [0, 1], noise (C, h, w), timestep, whether conditioning and prompt are emptied)
    """

    def __init__(self, photographs: Photographs, recipe: TrainingParams, latent: tuple[int, ...], timesteps: int):
        self.photographs, self.drop, self.latent, self.timesteps = photographs, recipe.drop, latent, timesteps
        self.crop = random_crop(recipe.crop, recipe.min_scale)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Tensor, int, bool]:
        index, seed = item
        photograph = self.photographs[index]
        with seeded(seed):
            crop, noise = self.crop(photograph), torch.randn(self.latent)
            timestep, dropped = torch.randint(self.timesteps, ()), torch.rand(()) < self.drop
        return to_tensor(crop), noise, int(timestep), bool(dropped)
