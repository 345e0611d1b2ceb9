"""Trains a ControlNet beside a frozen prior to predict noise, given a network's feature map: `featspace featinv train`.

Every photograph of a step has its own random numbers, from the seed and its place in the training, and an epoch's order
follows from the seed: a run that was interrupted takes exactly the steps of one that was not, whatever it is divided
over.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from featspace.config.featinv import ControlNetParams, TrainingParams
from featspace.config.params import Params, Profile
from featspace.data.photographs import Batches, Photographs, open_photographs
from featspace.encoders.encoder import Encoder
from featspace.pipelines.controlnet import FeatureControlNet, Pairing, conditioning_shape, save_controlnet
from featspace.pipelines.featinv import FeatInvPipeline
from featspace.pipelines.feature_decoding import FeatureDecodingPipeline
from featspace.pipelines.loading import load_pipeline
from featspace.stages.featinv.decoder import controlnet_params, open_encoder, prior_of
from featspace.stages.featinv.draws import Draws
from featspace.stages.featinv.objective import Objective
from featspace.stages.featinv.training_state import TrainingState
from featspace.stages.featinv.validate import Validation
from featspace.utils.devices import choose_device, cpu_kernels, multiplies_bfloat16
from featspace.utils.errors import UsageError, enough_memory
from featspace.utils.files import atomic_file, refuse_taken
from featspace.utils.locks import alone
from featspace.utils.signals import left_to_parent


def run_train(params: Params, profile: Profile, name: str, out: Path, work: Path, curve: Path | None = None) -> None:
    """Trains the ControlNet `name` of the profile by its recipe and writes the folder `out` (`save_controlnet`).

    `work` gets the checkpoint, from which an interrupted run goes on, `curve.csv` (or `curve`) and a grid of held-out
    photographs and their reconstructions for each row of it. Under `accelerate launch` each process takes its part of
    every batch. Raises UsageError for a recipe that does not fit, and if another run trains in `work` or for `out`,
    FeatspaceError for whatever cannot be read, and where memory is short.
    """
    own = controlnet_params(profile, name)
    recipe = profile.featinv.training.model_copy(update={} if own.epochs is None else {"epochs": own.epochs})
    refuse_taken(out)  # before days are spent
    folder = None if recipe.photographs is None else params.root / recipe.photographs
    photographs, held_out = open_photographs(folder, "train"), open_photographs(folder, "val")
    accelerator = open_accelerator(recipe, choose_device(profile.decode.device))
    device, is_main = accelerator.device, accelerator.is_main_process
    with contextlib.ExitStack() as held:
        if is_main:
            held.enter_context(alone(work))
            held.enter_context(alone(out))
            photographs.check()
        accelerator.wait_for_everyone()

        prior_name, resolution = prior_of(profile)
        base, encoder = open_networks(params, own, prior_name, device)
        controlnet = new_controlnet(base, encoder, recipe.hint_width, params.seed)
        pairing = Pairing.of(prior_name, base.unet, own.network, encoder)

        steps = max(1, round(recipe.epochs * len(photographs) / recipe.batch))
        state = TrainingState.new(controlnet, recipe, steps, seed=params.seed, pairing=pairing.model_dump())
        state.resume(work / "checkpoint.pt", device)
        prepared = accelerator.prepare(controlnet, state.optimizer)
        precision = mixed_precision(accelerator, nn.ModuleList([controlnet, base.unet, base.vae]))

        scheduler, prior = DDPMScheduler.from_config(base.scheduler.config), base.prior(profile.featinv.prompt)
        objective = Objective(encoder, prior, base.prior("").prompt, scheduler, resolution, recipe.min_snr)
        pipeline = FeatInvPipeline(**base.components, controlnet=controlnet)
        validation = Validation(held_out, encoder, pipeline, scheduler, profile.featinv, resolution)
        draws = Draws(photographs, recipe, prior.latent_shape, len(scheduler))
        loader = load_batches(draws, photographs, state.step, steps, params.seed, recipe, accelerator)

        saved = time.monotonic()
        for _ in take_steps(accelerator, prepared, state, objective, loader, precision, f"train {name}", steps):
            if state.step == steps or state.step % -(-steps // recipe.validations) == 0:
                with precision():
                    validate(accelerator, state, validation, work, curve or work / "curve.csv")
            if is_main and (state.step == steps or time.monotonic() - saved > recipe.checkpoint_seconds):
                state.save(work / "checkpoint.pt")
                saved = time.monotonic()
        if is_main:
            save_controlnet(controlnet, pairing, out)
        accelerator.wait_for_everyone()
    accelerator.end_training()


def open_accelerator(recipe: TrainingParams, device: torch.device) -> Accelerator:
    """Bfloat16 where it is asked for and the device multiplies in it.

    Raises UsageError if a batch cannot be divided over the processes and their parts.
    """
    half = recipe.precision == "bfloat16" and multiplies_bfloat16(device)
    accelerator = Accelerator(
        mixed_precision="bf16" if half else "no",
        gradient_accumulation_steps=recipe.accumulate,
        cpu=device.type == "cpu",
    )
    if recipe.batch % (accelerator.num_processes * recipe.accumulate):
        parts = f"{accelerator.num_processes} processes times accumulate: {recipe.accumulate}"
        raise UsageError(f"featinv.training.batch is {recipe.batch}: it must be a multiple of {parts}")
    return accelerator


def open_networks(
    params: Params, own: ControlNetParams, prior: str, device: torch.device
) -> tuple[FeatureDecodingPipeline, Encoder]:
    """The frozen prior and the encoder, in float32."""
    base = load_pipeline(prior, params.root, "float32", device)
    for part in (base.unet, base.vae, base.text_encoder):
        part.requires_grad_(False).eval()
    return base, open_encoder(params, own).to(device).to(memory_format=torch.channels_last)


def new_controlnet(base: FeatureDecodingPipeline, encoder: Encoder, width: int, seed: int) -> FeatureControlNet:
    """A copy of the UNet's first half, with an embedding of the encoder's maps that is drawn from the seed."""
    torch.manual_seed(seed)
    controlnet = FeatureControlNet.for_unet(base.unet, conditioning_shape(encoder)[0], width)
    return controlnet.to(base.device, memory_format=torch.channels_last).train()


def mixed_precision(accelerator: Accelerator, networks: nn.Module) -> Callable[[], AbstractContextManager]:
    """A context for whatever computes with `networks`."""
    slow = accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16"
    kernels = cpu_kernels(networks) if slow else contextlib.nullcontext

    @contextmanager
    def context() -> Iterator[None]:
        with accelerator.autocast(), kernels():
            yield

    return context


def load_batches(
    draws: Draws,
    photographs: Photographs,
    first: int,
    steps: int,
    seed: int,
    recipe: TrainingParams,
    accelerator: Accelerator,
) -> DataLoader:
    """This process' part of the steps from `first` on."""
    share = slice(accelerator.process_index, None, accelerator.num_processes)
    return DataLoader(
        draws,
        batch_sampler=Batches(first, steps, recipe.batch, len(photographs), seed, share, recipe.accumulate),
        num_workers=recipe.workers,
        worker_init_fn=left_to_parent,
        pin_memory=accelerator.device.type == "cuda",
    )


def take_steps(
    accelerator: Accelerator,
    prepared: tuple[nn.Module, torch.optim.Optimizer],
    state: TrainingState,
    objective: Objective,
    loader: Iterable[list[Tensor]],
    precision: Callable[[], AbstractContextManager],
    title: str,
    steps: int,
) -> Iterator[None]:
    """Takes the steps of `loader`, each over its parts, and yields after each; gradient norm at most 1."""
    controlnet, optimizer = prepared
    hidden, side = not accelerator.is_main_process, objective.resolution
    with tqdm(total=steps, initial=state.step, desc=title, unit="step", disable=hidden, mininterval=2) as progress:
        for part in loader:
            many = f"with {len(part[0])} images at once, of {side}x{side} pixels"
            remedy = "raise featinv.training.accumulate, which divides a batch"
            with accelerator.accumulate(controlnet), enough_memory(many, remedy):
                with precision():
                    loss = objective.loss(controlnet, *(each.to(accelerator.device) for each in part))
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(controlnet.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            state.loss, state.parts = state.loss + float(loss.detach()), state.parts + 1
            if not accelerator.sync_gradients:
                continue
            state.rate.step()
            state.step += 1
            progress.update()
            if state.step % 20 == 0:
                progress.set_postfix(loss=f"{state.mean_loss:.4f}", refresh=False)
            yield


def validate(accelerator: Accelerator, state: TrainingState, validation: Validation, work: Path, curve: Path) -> None:
    """Adds a row to the curve, of the loss of all processes, each of which has seen its part of every batch."""
    state.loss = float(accelerator.reduce(torch.tensor(state.loss, device=accelerator.device), "mean"))
    if accelerator.is_main_process:
        state.add_row(validation.measure(work / f"validation-{state.step}.png"))
        with atomic_file(curve) as partial:
            pd.DataFrame(state.rows).to_csv(partial, index=False, float_format="%.6g")
        tqdm.write(f"{curve}: {state.rows[-1]}")
    state.loss, state.parts = 0.0, 0
