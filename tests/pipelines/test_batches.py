"""What is decoded at once does not touch each other: in float64 an image is the same whatever the batch."""

from __future__ import annotations

import pytest
import torch

from featspace.encoders.encoder import load_encoder
from featspace.methods import METHODS
from featspace.pipelines.loading import load_pipeline

pytestmark = pytest.mark.usefixtures("offline")


class Exact(torch.nn.Module):
    """The encoder's feature as it is computed, in float64."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, images):
        return self.encoder._feature(self.encoder.model, self.encoder._inputs(images)).double()


@pytest.fixture
def exact():
    torch.set_default_dtype(torch.float64)  # of the noise, and so of the latents
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("method", METHODS)
def test_a_sample_is_the_same_in_a_batch_and_alone(method, project):
    """To rounding, which is what makes samples of different batches differ in float32: each evaluation enlarges it."""
    pipeline = load_pipeline("data/models/prior", project)
    pipeline.set_progress_bar_config(disable=True)
    for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        torch.nn.Module.double(network)
    encoder = Exact(load_encoder(str(project / "data/models/resnet")).double())
    targets = encoder(torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))).detach()

    def decode(rows: list[int]) -> torch.Tensor:
        steps = {"recurrences": 2, "emphasis_steps": 0} if method == "paper" else {}
        generators = [torch.Generator().manual_seed(row) for row in rows]
        options = {"generator": generators, "output_type": "latent", **steps}
        return pipeline(targets[rows], encoder, method, 6, **options).images

    together = decode([0, 1, 2, 3])
    assert together.dtype == torch.float64
    for part in ([0], [3], [2, 1]):
        torch.testing.assert_close(decode(part), together[part], rtol=0, atol=1e-6)
