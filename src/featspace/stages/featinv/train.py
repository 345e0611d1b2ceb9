"""Trains a ControlNet beside a frozen prior to predict noise, given a network's feature map: `featspace featinv train`.

Every photograph of a step has its own random numbers, from the seed and its place in the training, and an epoch's order
follows from the seed: a run that was interrupted takes exactly the steps of one that was not, whatever it is divided
over.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from featspace.config.featinv import TrainingParams
from featspace.config.params import Params, Profile
from featspace.data.photographs import Photographs, open_photographs, random_crop
from featspace.pipelines.controlnet import FeatureControlNet, Pairing, hint_shape, save_controlnet
from featspace.pipelines.featinv import FeatInvPipeline, controlled
from featspace.pipelines.feature_decoding import load_pipeline
from featspace.stages.featinv.decoder import controlnet_params, open_encoder, prior_of
from featspace.stages.featinv.validate import Validation
from featspace.utils.devices import choose_device, cpu_kernels, multiplies_bfloat16
from featspace.utils.errors import FeatspaceError, UsageError
from featspace.utils.files import atomic_file
from featspace.utils.images import to_tensor

LARGEST = 2**63
"""What a generator's seed stays under."""


class Draws(torch.utils.data.Dataset):
    """A crop of a photograph with its noise and timestep, drawn from a seed: the item of (index, seed).

    (crop (3, S, S) in [0, 1], noise (C, h, w), timestep, whether hint and prompt are emptied)
    """

    def __init__(self, photographs: Photographs, recipe: TrainingParams, latent: tuple[int, ...], timesteps: int):
        self.photographs, self.recipe, self.latent, self.timesteps = photographs, recipe, latent, timesteps

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Tensor, int, bool]:
        index, seed = item
        draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
        crop = random_crop(self.photographs[index], self.recipe.crop, self.recipe.min_scale, draw)
        noise = torch.randn(self.latent, generator=generator)
        return to_tensor(crop), noise, draw.randrange(self.timesteps), draw.random() < self.recipe.drop


class Batches:
    """(index, seed) of the photographs of each part of each step from `first` on: the batches of a DataLoader.

    An epoch is a permutation drawn from (seed, epoch). `share` is a process' own of each step, computed in `parts`.
    """

    def __init__(self, first: int, steps: int, batch: int, count: int, seed: int, share: slice, parts: int):
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


def run_train(params: Params, profile: Profile, name: str, out: Path, work: Path, curve: Path | None = None) -> None:
    """Trains the ControlNet `name` of the profile by its recipe and writes the folder `out` (`save_controlnet`).

    `work` gets the checkpoint, from which an interrupted run goes on, `curve.csv` (or `curve`) and a grid of held-out
    photographs and their reconstructions for each row of it. Under `accelerate launch` each process takes its part of
    every batch. Raises UsageError for a recipe that does not fit, FeatspaceError for whatever cannot be read.
    """
    own = controlnet_params(profile, name)
    recipe = profile.featinv.training.model_copy(update={} if own.epochs is None else {"epochs": own.epochs})
    if out.is_dir() and any(out.iterdir()):  # before days are spent
        raise UsageError(f"{out}: the folder is not empty; remove it or name another")
    folder = None if recipe.photographs is None else params.root / recipe.photographs
    photographs, held_out = open_photographs(folder, "train"), open_photographs(folder, "val")
    where = choose_device(profile.decode.device)
    half = recipe.precision == "bfloat16" and multiplies_bfloat16(where)
    accelerator = Accelerator(
        mixed_precision="bf16" if half else "no",
        gradient_accumulation_steps=recipe.accumulate,
        cpu=where.type == "cpu",
    )
    processes = accelerator.num_processes
    if recipe.batch % (processes * recipe.accumulate):
        parts = f"{processes} processes times accumulate: {recipe.accumulate}"
        raise UsageError(f"featinv.training.batch is {recipe.batch}: it must be a multiple of {parts}")
    if accelerator.is_main_process:
        photographs.check()
    accelerator.wait_for_everyone()
    prior_name, resolution = prior_of(profile)
    base = load_pipeline(prior_name, params.root, "float32", accelerator.device)
    encoder = open_encoder(params, own).to(accelerator.device, memory_format=torch.channels_last)
    for part in (base.unet, base.vae, base.text_encoder):
        part.requires_grad_(False).eval()
    torch.manual_seed(params.seed)
    controlnet = FeatureControlNet.beside(base.unet, hint_shape(encoder)[0], recipe.hint_width)
    controlnet.to(accelerator.device, memory_format=torch.channels_last).train()
    pairing = Pairing.of(prior_name, base.unet, own.network, encoder)
    kernels = contextlib.nullcontext
    if where.type == "cpu" and half:
        kernels = cpu_kernels(nn.ModuleList([controlnet, base.unet, base.vae]))
    prior, empty = base.prior(profile.featinv.prompt), base.prior("").prompt
    steps = max(1, round(recipe.epochs * len(photographs) / recipe.batch))
    identity = {"recipe": _identity(recipe), "seed": params.seed, "steps": steps, "pairing": pairing.model_dump()}
    optimizer = torch.optim.AdamW(controlnet.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    step, rows, running, seen = _resume(work / "checkpoint.pt", identity, controlnet, optimizer, accelerator.device)
    controlnet, optimizer = accelerator.prepare(controlnet, optimizer)
    pipeline = FeatInvPipeline(**base.components, controlnet=accelerator.unwrap_model(controlnet))
    validation = Validation(held_out, encoder, pipeline, profile.featinv, resolution)
    share = slice(accelerator.process_index, None, processes)
    loader = DataLoader(
        Draws(photographs, recipe, prior.latent_shape, len(prior.alpha_bars)),
        batch_sampler=Batches(step, steps, recipe.batch, len(photographs), params.seed, share, recipe.accumulate),
        num_workers=recipe.workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    alpha_bars, predicts_v = prior.alpha_bars.to(accelerator.device), prior.prediction_type == "v_prediction"

    def loss_of(crops: Tensor, noise: Tensor, t: Tensor, dropped: Tensor) -> Tensor:
        with torch.no_grad():
            hints = encoder.spatial(crops) * ~dropped.view(-1, 1, 1, 1)
            images = F.interpolate(crops, resolution, mode="bicubic", antialias=True).clamp(0, 1)
            clean = prior.encode((images * 2 - 1).contiguous(memory_format=torch.channels_last)).float()
            context = torch.where(dropped.view(-1, 1, 1), empty, prior.prompt)
            keep = alpha_bars[t].float().view(-1, 1, 1, 1)
            z = keep.sqrt() * clean + (1 - keep).sqrt() * noise
            wanted = keep.sqrt() * noise - (1 - keep).sqrt() * clean if predicts_v else noise
        z = z.contiguous(memory_format=torch.channels_last)
        error = (controlled(base.unet, controlnet, z, t, hints, context).float() - wanted).square().mean((1, 2, 3))
        return (error * noise_weight(keep.flatten(), recipe.min_snr, predicts_v)).mean()

    saved = time.monotonic()
    main = accelerator.is_main_process
    progress = tqdm(total=steps, initial=step, desc=f"train {name}", unit="step", disable=not main, mininterval=2)
    for part in loader:
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * (_cosine(step, steps) if recipe.schedule == "cosine" else 1)
        with accelerator.accumulate(controlnet):
            with accelerator.autocast(), kernels():
                loss = loss_of(*(each.to(accelerator.device) for each in part))
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(controlnet.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        running, seen = running + float(loss.detach()), seen + 1
        if not accelerator.sync_gradients:
            continue
        step += 1
        progress.update()
        if step % 20 == 0:
            progress.set_postfix(loss=f"{running / seen:.4f}", refresh=False)
        validated = step == steps or step % -(-steps // recipe.validations) == 0
        if validated:  # each process has seen its own part of every batch
            running = float(accelerator.reduce(torch.tensor(running, device=accelerator.device), "mean"))
        if validated and main:
            with accelerator.autocast(), kernels():
                measured = validation.measure(work / f"validation-{step}.png")
            rows.append({"step": step, "loss": running / seen, **measured})
            with atomic_file(curve or work / "curve.csv") as aside:
                pd.DataFrame(rows).to_csv(aside, index=False, float_format="%.6g")
            tqdm.write(f"{name}: {rows[-1]}")
        if validated:
            running, seen = 0.0, 0
        if main and (step == steps or time.monotonic() - saved > recipe.checkpoint_seconds):
            state = (step, rows, running, seen)
            _save(work / "checkpoint.pt", identity, state, accelerator.unwrap_model(controlnet), optimizer)
            saved = time.monotonic()
    progress.close()
    if main:
        save_controlnet(accelerator.unwrap_model(controlnet), pairing, out)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def noise_weight(alpha_bars: Tensor, min_snr: float | None, predicts_v: bool) -> Tensor:
    """The weight of each sample's error, (N,), by its ᾱ, (N,): min(SNR, min_snr)/SNR of the predicted noise.

    Errors of plain noise are largest where there is least of it, where a hint tells nothing (Hang et al. 2023).
    """
    if min_snr is None:
        return torch.ones_like(alpha_bars)
    snr = alpha_bars / (1 - alpha_bars)
    return snr.clamp(max=min_snr) / (snr + 1 if predicts_v else snr)


def _cosine(step: int, steps: int) -> float:
    """Linear warm-up over 5 % of the steps, then a cosine to zero."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _identity(recipe: TrainingParams) -> dict:
    """What the weights depend on."""
    aside = {"photographs", "accumulate", "workers", "validations", "checkpoint_seconds"}
    return recipe.model_dump(exclude=aside)


def _save(path: Path, identity: dict, progress: tuple, controlnet: nn.Module, optimizer) -> None:
    state = {
        "identity": identity,
        "progress": progress,
        "controlnet": controlnet.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    with atomic_file(path) as aside:
        torch.save(state, aside)


def _resume(path: Path, identity: dict, controlnet: nn.Module, optimizer, device) -> tuple[int, list, float, int]:
    if not path.is_file():
        return 0, [], 0.0, 0
    state = torch.load(path, map_location=device, weights_only=True)
    if state["identity"] != identity:
        differing = [key for key, value in identity.items() if state["identity"].get(key) != value]
        raise FeatspaceError(f"{path}: of a training with another {differing[0]}; remove it to start anew")
    controlnet.load_state_dict(state["controlnet"])
    optimizer.load_state_dict(state["optimizer"])
    return state["progress"]
