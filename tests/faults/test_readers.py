"""Processes that read photographs for a training."""

from __future__ import annotations

import multiprocessing
import os
import signal
from types import SimpleNamespace

import pytest
import torch
from featspace_training.loop import _load
from featspace_training.recipe import Recipe

from featspace.config.featinv import TrainingParams
from featspace.stages.featinv.train import load_batches

STEPS = 12


class Numbers:
    """The photographs: as many numbers."""

    def __len__(self):
        return 2 * STEPS

    def __getitem__(self, item):
        return item[0]


def of_a_small_model():
    return _load(Numbers(), Recipe(steps=STEPS, batch=2, lr=1, workers=1), 0, torch.device("cpu"))


def of_a_controlnet():
    alone = SimpleNamespace(process_index=0, num_processes=1, device=torch.device("cpu"))
    return load_batches(Numbers(), Numbers(), 0, STEPS, 0, TrainingParams(batch=2, workers=1), alone)


@pytest.mark.parametrize("loader", [of_a_small_model, of_a_controlnet])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_readers_leave_a_signal_to_the_training_that_they_read_for(loader, number):
    """A scheduler and a terminal tell all processes; what a reader made of it hid what the training said."""
    before, batches = set(multiprocessing.active_children()), iter(loader())
    read = [next(batches)]
    (reader,) = set(multiprocessing.active_children()) - before
    os.kill(reader.pid, number)
    read += batches
    assert sorted(torch.cat(read).tolist()) == list(range(2 * STEPS))
