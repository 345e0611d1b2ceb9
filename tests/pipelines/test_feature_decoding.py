"""The guided decoder as a pipeline of diffusers, called in the right ways and in the wrong ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from featspace.encoders.encoder import load_encoder
from featspace.methods.saved import as_saved, encode_as_saved
from featspace.pipelines.feature_decoding import FeatureDecodingPipeline
from featspace.utils.errors import FeatspaceError, UsageError
from featspace.utils.images import read_image, square, to_tensor

pytestmark = pytest.mark.usefixtures("offline")


def test_pipeline_as_a_diffusers_user_calls_it(project):
    pipeline = FeatureDecodingPipeline.from_pretrained(project / "data/models/prior", dtype=torch.float32)
    encoder, seen = load_encoder(str(project / "data/models/resnet")), []
    target = encoder(to_tensor(read_image(project / "photo.jpg"))[None])
    schedule = {"method": "paper", "num_inference_steps": 3, "recurrences": 1, "emphasis_steps": 0}
    out = pipeline(
        target,
        encoder,
        generator=[torch.Generator().manual_seed(7)],
        callback_on_step_end=lambda pipe, index, timestep, values: seen.append((index, timestep, set(values))),
        output_type="np",
        **schedule,
    )
    assert [(index, timestep) for index, timestep, _ in seen] == [(0, 999), (1, 500), (2, 0)]
    assert out.images.shape == (1, 64, 64, 3)
    image = torch.from_numpy(out.images).permute(0, 3, 1, 2)
    torch.testing.assert_close((encoder(image) - target).square().sum(1), out.distances, rtol=1e-4, atol=1e-4)
    images, distances, _ = pipeline(
        target,
        encoder,
        generator=[torch.Generator().manual_seed(7)],
        output_type="np",
        return_dict=False,
        **schedule,
    )
    assert np.array_equal(images, out.images) and torch.equal(distances, out.distances)


def test_targets_may_be_images_and_every_method_is_known_by_name(project):
    pipeline = FeatureDecodingPipeline.from_pretrained(project / "data/models/prior", dtype=torch.float32)
    encoder, photo = load_encoder(str(project / "data/models/resnet")), read_image(project / "photo.jpg")
    feature = encoder(to_tensor(square(photo, 64))[None])

    def decode(targets, method, **options):
        generator = [torch.Generator().manual_seed(1)]
        return pipeline(targets, encoder, method, 4, generator=generator, output_type="pt", **options).images

    assert (
        torch.equal(decode(photo, "mpgd"), decode(feature, "mpgd")) and decode([photo, photo][:1], "fast").shape[0] == 1
    )
    latents = pipeline(feature, encoder, "mpgd", 2, output_type="latent").images
    assert latents.shape == (1, *pipeline.prior().latent_shape)
    zeros = pipeline(
        feature, encoder, "mpgd", 2, output_type="latent", callback_on_step_end=lambda *_: {"latents": 0 * latents}
    ).images
    assert torch.equal(zeros, 0 * latents)


def test_a_saved_pipeline_decodes_the_same(project, tmp_path):
    pipeline = FeatureDecodingPipeline.from_pretrained(project / "data/models/prior", dtype=torch.float32)
    encoder = load_encoder(str(project / "data/models/resnet"))
    pipeline.save_pretrained(tmp_path / "saved")
    again = FeatureDecodingPipeline.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    target = torch.ones(1, encoder.dim)
    images = [
        each(target, encoder, "mpgd", 2, generator=torch.Generator().manual_seed(1), output_type="np").images
        for each in (pipeline, again)
    ]
    assert np.abs(images[0] - images[1]).mean() < 0.5 / 255


@pytest.mark.parametrize(
    "preset", [{"evaluations": 3}, {"method": "paper", "steps": 2, "recurrences": 1, "emphasis_steps": 0}]
)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_guides_where_gradients_are_off(mode, preset, project):
    pipeline = FeatureDecodingPipeline.from_pretrained(project / "data/models/prior", dtype=torch.float32)
    encoder = load_encoder(str(project / "data/models/resnet"))
    photo = to_tensor(read_image(project / "photo.jpg"))[None]

    def images():
        generator = [torch.Generator().manual_seed(1)]
        return pipeline(encoder(photo), encoder, generator=generator, output_type="pt", **preset).images

    with mode():
        found = images()
    torch.testing.assert_close(found, images(), atol=2 / 255, rtol=0)


def test_what_cannot_be_guided_is_refused(project):
    pipeline = FeatureDecodingPipeline.from_pretrained(project / "data/models/prior", dtype=torch.float32)
    encoder = load_encoder(str(project / "data/models/resnet"))
    target = torch.ones(2, encoder.dim)
    for features, options, message in (
        (target[0], {}, "features of shape .*: it must be .N, D."),
        (target, {"method": "paper", "weight": math.nan}, "weight is NaN"),
        (target, {"method": "mpgd", "weight": math.nan}, "weight is NaN"),
        (target, {"method": "paper", "weight": "1"}, "weight is '1': it must be a number"),
        (target, {"method": "paper", "clip_std": -1.0}, "clip_std is -1.0: it must be greater than 0"),
        (target, {"method": "paper", "recurrences": 0}, "recurrences is 0: it must be at least 1"),
        (target, {"method": "paper", "emphasis_steps": -1}, "emphasis_steps is -1: it must be at least 0"),
        (target, {"method": None}, "method is None: it must be a name or a function"),
        (target, {"level": math.nan}, "level is NaN"),
        (target, {"evaluations": 2.5}, "evaluations is 2.5: it must be a whole number"),
        (target[None], {}, "features of shape .*: it must be .N, D."),
        (target[:0], {}, "features of shape .*: it must be .N, D."),
        (target.long(), {}, "features of torch.int64: they must be floats"),
        (target > 0, {}, "features of torch.bool: they must be floats"),
        (target, {"generator": [1, 2]}, "generator is 1: it must be a torch.Generator"),
        (target, {"generator": [None]}, "1 generators for 2 samples"),
        (target, {"callback_on_step_end": lambda *_: {"latents": torch.zeros(1)}}, "latents of shape .1., not .2, "),
        (target, {"method": "fsat"}, "no method 'fsat'; did you mean fast"),
        (target, {"weight": 1.0}, "weight is no setting of this method.*; it takes evaluations, "),
        (target, {"stop_at": math.nan}, "stop_at is NaN"),
        (target, {"output_type": "jpeg"}, "output_type is 'jpeg': it must be one of pil, np, pt, latent"),
        ([target], {}, "neither a tensor of features nor PIL images"),
    ):
        with pytest.raises(UsageError, match=message):
            pipeline(features, encoder, **{} if "evaluations" in options else {"num_inference_steps": 2}, **options)
    for wrong, message in (("resnet", "encoder is 'resnet': it must be a function"), (None, "encoder is None")):
        with pytest.raises(UsageError, match=message):
            pipeline(target, wrong, num_inference_steps=2)
    with pytest.raises(FeatspaceError, match="the encoder gives a tuple, not a tensor"):
        pipeline(target, lambda images: (encoder(images),), num_inference_steps=2)
    for method in ("fast", "paper"):
        with pytest.raises(FeatspaceError, match="but the targets have 1 numbers each"):
            pipeline(target[:, :1], encoder, method, 2)
        with pytest.raises(FeatspaceError, match="no gradient"):
            pipeline(target, lambda images: encoder(images).detach(), method, 2)


def test_an_encoder_and_a_feature_in_half_precision_guide_as_well(project):
    pipeline = FeatureDecodingPipeline.from_pretrained(project / "data/models/prior", dtype=torch.float32)
    encoder = load_encoder(str(project / "data/models/resnet")).half()
    target = encoder(to_tensor(read_image(project / "photo.jpg"))[None]).half()
    distances = [
        pipeline(target, encoder, num_inference_steps=n, generator=torch.Generator().manual_seed(0)).distances.item()
        for n in (2, 16)
    ]
    assert 0 <= distances[1] < distances[0]


def test_the_loss_at_the_true_image_is_zero_and_rounding_passes_gradients(project):
    encoder = load_encoder(str(project / "data/models/resnet"))
    image = to_tensor(read_image(project / "photo.jpg"))[None]
    target, encode = encoder(image), encode_as_saved(encoder)
    scale = target.square().sum()

    def loss(images: torch.Tensor) -> torch.Tensor:
        return (encode(images) - target).square().sum(1)

    assert loss(image * 2 - 1) < 1e-6 * scale < loss(-(image * 2 - 1))
    x = torch.tensor([-1.5, -0.123, 0.456, 1.5], requires_grad=True)
    y = as_saved(x)
    assert torch.equal((y * 255).round() / 255, y) and y.min() >= 0 and y.max() <= 1
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [0.0, 0.5, 0.5, 0.0]
