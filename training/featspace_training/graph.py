"""A training step as one CUDA graph: on a GPU small networks wait for their kernels' launches, not for the kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch

EAGER = 3
"""Calls before the capture, which choose kernels and make what an optimizer keeps."""


class Replayed:
    """Calls `step`, which takes and returns nothing, the first times; from then on what was captured of it is replayed.

    All that `step` reads and writes must stay where it is in the GPU's memory, it must not wait for the GPU, and what
    it draws must come from `generator` or the global one, which may be seeded anew between calls
    (https://docs.pytorch.org/docs/stable/notes/cuda.html, "CUDA Graphs").
    """

    def __init__(self, step: Callable[[], None], generator: torch.Generator):
        self.step, self.generator = step, generator
        self.stream, self.graph, self.calls = torch.cuda.Stream(), None, 0

    def __call__(self) -> None:
        if self.graph is None and self.calls < EAGER:
            self.calls += 1
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                self.step()
            torch.cuda.current_stream().wait_stream(self.stream)
            return
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            self.graph.register_generator_state(self.generator)
            with torch.cuda.graph(self.graph, stream=self.stream):
                self.step()
        self.graph.replay()
