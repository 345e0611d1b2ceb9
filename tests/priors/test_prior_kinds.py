"""Which priors are taken, and that one that is not is refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.configuration_utils import FrozenDict

from featspace.pipelines.loading import load_pipeline
from featspace.priors.prior import Prior
from featspace.utils.errors import FeatspaceError

pytestmark = pytest.mark.usefixtures("offline")


def edited(part: str, **changes) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (path,) = (folder / part).glob("*config.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


REFUSED = {
    "of a flow": ({"scheduler": FlowMatchEulerDiscreteScheduler()}, "which predicts a flow; take a prior"),
    "of something else": ({"prediction_type": "flow_prediction"}, "which predicts flow_prediction; take a prior"),
    "zero terminal SNR": ({"rescale_betas_zero_snr": True}, "ends in noise alone .zero terminal SNR."),
    "inpainting": ({"in_channels": 9}, "takes 9 channels, but latents have 4"),
    "SDXL": ({"addition_embed_type": "text_time"}, "addition_embed_type is 'text_time'"),
    "classes": ({"class_embed_type": "timestep"}, "class_embed_type is 'timestep'"),
    "another text encoder": ({"cross_attention_dim": 1024}, "gives 8 numbers a token, but its UNet takes 1024"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_priors_of_another_kind_are_refused(kind, project):
    changes, message = REFUSED[kind]
    pipeline = load_pipeline("data/models/prior", project)
    scheduler = changes.get("scheduler") or DDIMScheduler.from_config(pipeline.scheduler.config, **changes)
    if "prediction_type" in changes:
        scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
        scheduler.register_to_config(**changes)
    prior = pipeline.prior()
    unet = SimpleNamespace(config=FrozenDict({**pipeline.unet.config, **changes}))
    with pytest.raises(FeatspaceError, match=message):
        Prior(unet, prior.vae, prior.prompt, scheduler)


def test_the_error_names_the_folder(project, tmp_path):
    shutil.copytree(project / "data/models/prior", tmp_path / "prior")
    edited("scheduler", rescale_betas_zero_snr=True)(tmp_path / "prior")
    with pytest.raises(FeatspaceError, match=f"^{tmp_path}/prior: its schedule ends in noise alone"):
        load_pipeline(str(tmp_path / "prior"))


def test_all_that_a_unet_may_predict_is_the_same_noise(project):
    """Of a clean latent and a noise in it, whatever the UNet tells of them."""
    pipeline, t = load_pipeline("data/models/prior", project), 400
    prior = pipeline.prior()
    clean, noise = torch.randn(2, 1, *prior.latent_shape)
    alpha = float(prior.alphas_cumprod[t])
    z = alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise
    told = {"epsilon": noise, "v_prediction": alpha**0.5 * noise - (1 - alpha) ** 0.5 * clean, "sample": clean}
    for kind, answer in told.items():
        scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, prediction_type=kind)
        unet = SimpleNamespace(config=pipeline.unet.config, dtype=z.dtype)
        knowing = Prior(unet, prior.vae, prior.prompt, scheduler)
        knowing.unet = Knowing(answer, pipeline.unet.config)
        torch.testing.assert_close(knowing.predict_noise(z, t), noise, atol=1e-5, rtol=1e-4)


class Knowing:
    """A UNet that gives what it was given."""

    dtype = torch.float32

    def __init__(self, answer: torch.Tensor, config: FrozenDict):
        self.answer, self.config = answer, config

    def __call__(self, *_: object) -> SimpleNamespace:
        return SimpleNamespace(sample=self.answer)


def test_a_shifted_autoencoder_sees_what_it_has_seen_in_training(project):
    prior = load_pipeline("data/models/prior", project).prior()
    images = torch.rand(1, 3, prior.image_size, prior.image_size) * 2 - 1
    with torch.no_grad():
        plain = prior.encode(images)
        decoded = prior.decode(plain)
        prior.vae.register_to_config(shift_factor=0.3)
        scale = prior.vae.config.scaling_factor
        torch.testing.assert_close(prior.encode(images), plain - 0.3 * scale)
        torch.testing.assert_close(prior.decode(plain - 0.3 * scale), decoded, atol=1e-4, rtol=1e-3)
