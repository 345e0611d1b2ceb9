"""A signal while a checkpoint is written or read: that is done first, then the run ends."""

from __future__ import annotations

import os
import signal
from collections import OrderedDict

import pytest
import torch

from featspace.utils.checkpoints import read_checkpoint, write_checkpoint
from featspace.utils.signals import Ended, ended_by_signals, signals_wait


class Sends:
    """Sends this process a signal as it is written; read again it is an empty dictionary."""

    def __init__(self, number: int):
        self.number = number

    def __reduce__(self):
        os.kill(os.getpid(), self.number)
        return OrderedDict, ()


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, Ended), (signal.SIGINT, KeyboardInterrupt)])
def test_a_checkpoint_is_whole_before_a_signal_ends_the_run(number, raised, tmp_path):
    before = signal.getsignal(number)
    with pytest.raises(raised), ended_by_signals():
        write_checkpoint({"sends": Sends(number), "step": torch.tensor(3)}, tmp_path / "model.pt")
    assert read_checkpoint(tmp_path / "model.pt") == {"sends": OrderedDict(), "step": torch.tensor(3)}
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    assert signal.getsignal(number) is before


def test_a_signal_while_a_checkpoint_is_read_does_not_make_it_a_damaged_one(tmp_path, monkeypatch):
    write_checkpoint({"step": 3}, tmp_path / "model.pt")
    read = torch.load

    def signaled(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return read(*args, **kwargs)

    monkeypatch.setattr(torch, "load", signaled)
    with pytest.raises(Ended), ended_by_signals():
        read_checkpoint(tmp_path / "model.pt")


def test_the_first_signal_ends_the_run_and_an_ignored_one_stays_so():
    with pytest.raises(Ended, match="129"), ended_by_signals(), signals_wait():
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_wait():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
