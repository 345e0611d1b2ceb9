"""The replayed training step, on a stand-in for the GPU that records work while a graph is captured, and replays it."""

from __future__ import annotations

import contextlib

import pytest
import torch
from featspace_training import graph


class Card:
    """A GPU whose `run(work)` does work at once, or keeps it for the graph that is being captured."""

    def __init__(self):
        self.capturing = None

    def run(self, work):
        work() if self.capturing is None else self.capturing.kept.append(work)


@pytest.fixture
def card(monkeypatch):
    card = Card()

    class Graph:
        def __init__(self):
            self.kept, self.generators = [], []

        def register_generator_state(self, generator):
            assert card.capturing is None
            self.generators.append(generator)

        def replay(self):
            for work in self.kept:
                work()

    class Stream:
        def wait_stream(self, other):
            assert isinstance(other, Stream)

    @contextlib.contextmanager
    def capture(recorded, stream):
        card.capturing = recorded
        yield
        card.capturing = None

    for name, value in {"Stream": Stream, "CUDAGraph": Graph, "graph": capture}.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    return card


def test_every_call_takes_one_step_of_what_is_in_place_then(card):
    weight, rate, called = torch.zeros(1), torch.ones(1), []

    def step():
        called.append(True)
        card.run(lambda: weight.add_(rate))

    generator = torch.Generator()
    replayed = graph.Replayed(step, generator)
    for count in range(1, 11):
        rate.fill_(count)
        replayed()
        assert weight.item() == sum(range(count + 1))
    assert len(called) == graph.EAGER + 1  # the last time to be captured
    assert replayed.graph.generators == [generator]
