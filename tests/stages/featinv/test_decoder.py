"""The second decoder on tiny networks: an untrained ControlNet changes nothing, a trained one listens to its hint."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from featspace.config.params import Params
from featspace.encoders.encoder import load_encoder
from featspace.methods.saved import as_saved
from featspace.metrics.similarity import map_cosine
from featspace.pipelines.controlnet import ConditioningEmbedding, FeatureControlNet, Pairing, load_controlnet
from featspace.pipelines.featinv import FeatInvPipeline
from featspace.pipelines.loading import load_pipeline
from featspace.stages.featinv.decoder import FeatInv
from featspace.stages.featinv.measures import compare_images, frechet
from featspace.stages.featinv.steer import read_direction
from featspace.stages.featinv.together import cost_in_evaluations
from featspace.utils.errors import FeatspaceError, UsageError

PROMPT = "a photo of a tabby"


def seeded(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(count)]


def test_an_untrained_controlnet_leaves_the_priors_images_unchanged(project):
    base = load_pipeline(str(project / "data/models/prior"))
    controlnet = FeatureControlNet.for_unet(base.unet, 6, 8).eval()
    for name, weight in controlnet.named_parameters():  # a copy, but for the hint and what leads back to the UNet
        if name in dict(base.unet.named_parameters()):
            assert torch.equal(weight, dict(base.unet.named_parameters())[name]), name
    pipeline = FeatInvPipeline(**base.components, controlnet=controlnet)
    ours = pipeline(torch.randn(2, 6, 3, 3) * 100, PROMPT, 4, 1.75, generator=seeded(2), output_type="pt").images
    plain = StableDiffusionPipeline(
        **base.components, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    plain.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 4, "guidance_scale": 1.75, "height": 64, "width": 64, "output_type": "np"}
    theirs = torch.from_numpy(plain([PROMPT] * 2, generator=seeded(2), **options).images).permute(0, 3, 1, 2)
    assert (ours - theirs).abs().max() <= 1 / 255  # ours are rounded to the levels of a file


def test_the_hint_embedding_is_the_published_one():
    embedding = ConditioningEmbedding(5, 512, 320)
    shapes = [tuple(layer.weight.shape) for layer in embedding.children()]
    assert shapes == [(512, 5, 3, 3), (512, 512, 3, 3), (320, 512, 3, 3)]
    hint = torch.randn(1, 5, 4, 4)
    assert not embedding(hint).any()
    torch.nn.init.dirac_(embedding.conv_out.weight)
    silu = torch.nn.functional.silu
    expected = silu(embedding.conv_mid(silu(embedding.conv_in(hint))))[:, :320]
    torch.testing.assert_close(embedding(hint), expected)
    varied = torch.randn(16, 5, 16, 16)
    hidden = silu(embedding.conv_mid(silu(embedding.conv_in(varied))))
    assert 0.3 < hidden.std().item() < 1  # what the zero-initialised layer gets to see of a hint of variance 1


def test_a_trained_controlnet_listens_to_its_hint_sample_by_sample(decoder):
    shape = decoder.encoder.shape
    maps = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    images = decoder.decode(maps, [1, 2, 3])
    assert images.shape == (3, 3, 64, 64) and torch.equal((images * 255).round() / 255, images)
    other = decoder.decode(torch.cat([maps[:2], -maps[2:]]), [1, 2, 3])
    assert torch.equal(images[:2], other[:2]) and not torch.equal(images[2], other[2])
    torch.testing.assert_close(decoder.decode(maps[2:], [3])[0], images[2], atol=1.5 / 255, rtol=0)
    assert not torch.equal(decoder.decode(maps[2:], [4])[0], images[2])


def test_a_pooled_feature_is_the_same_at_every_position(params, project):
    loaded = Params.load(params)
    decoder = FeatInv(loaded, loaded.profile("mini"), "pooled", torch.device("cpu"))
    feature = decoder.encoder(torch.rand(1, 3, 64, 64))[:, :, None, None]
    spread = feature.expand(-1, -1, 16, 16)
    z, prompt = torch.randn(1, 4, 16, 16), decoder.pipeline.prior("").prompt
    pooled, wide, other = (decoder.pipeline.predict(z, 999, hint, prompt) for hint in (feature, spread, 0 * feature))
    # Another shape is summed in another order on some processors: equal but for rounding.
    assert (pooled - wide).abs().max() < 1e-3 * (pooled - other).abs().max()


def test_the_same_images_come_as_pil_as_array_and_as_latents(decoder):
    maps, pipeline = torch.randn(2, *decoder.encoder.shape), decoder.pipeline
    images = {
        kind: pipeline(maps, "", 2, 1.0, generator=seeded(2), output_type=kind).images
        for kind in ("pil", "np", "pt", "latent")
    }
    pixels = np.stack([np.asarray(image) for image in images["pil"]])
    np.testing.assert_allclose(pixels / 255, images["np"], atol=1e-6)
    np.testing.assert_array_equal(images["np"], images["pt"].permute(0, 2, 3, 1).numpy())
    assert torch.equal(as_saved(pipeline.prior("").decode(images["latent"])), images["pt"])
    with pytest.raises(UsageError, match="output_type is 'jpeg': it must be one of pil, np, pt, latent"):
        pipeline(maps, output_type="jpeg")


def test_guidance_is_over_the_prompt_with_the_hint_on_both_branches(decoder):
    """Scale 1 is the conditional prediction, and the empty prompt guided by itself is the empty prompt."""
    maps, pipeline = torch.randn(1, *decoder.encoder.shape), decoder.pipeline
    conditional = pipeline(maps, PROMPT, 2, 1.0, generator=seeded(1), output_type="pt").images
    assert not torch.equal(conditional, pipeline(maps, PROMPT, 2, 3.0, generator=seeded(1), output_type="pt").images)
    guided, plain = (pipeline(maps, "", 2, scale, generator=seeded(1), output_type="pt").images for scale in (3.0, 1.0))
    assert (guided - plain).abs().max() <= 1 / 255
    z, contexts = torch.randn(1, 4, 16, 16), [pipeline.prior(text).prompt for text in ("", PROMPT)]
    plain, prompted = (pipeline.predict(z, 999, maps, context) for context in contexts)
    seen = []
    pipeline.predict = lambda *given: seen.append(given) or (plain if given[3].equal(contexts[0]) else prompted)
    pipeline(maps, PROMPT, 1, 1.75, generator=seeded(1), output_type="pt")
    assert len(seen) == 2 and all(given[2].equal(maps) for given in seen)


def test_it_is_saved_as_diffusers_saves_a_controlnet(params, project):
    folder = project / "data/models/featinv/maps"
    assert {file.name for file in folder.iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "pairing.json",
    }
    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    config = ControlNetModel.load_config(folder)
    assert config["_class_name"] == "FeatureControlNet" and config["conditioning_embedding_out_channels"] == [8]
    controlnet, pairing = load_controlnet(folder)
    assert pairing.layer == "unpooled" and pairing.hint == list(
        load_encoder(str(project / pairing.network), layer="unpooled").shape
    )
    assert controlnet.dtype == torch.float32 and not controlnet.training


def test_the_fingerprint_is_of_the_weights_not_of_their_precision(params, project):
    root = project / "data/models"
    resnet = load_encoder(str(root / "resnet"), layer="unpooled")
    single, half = (load_pipeline(str(root / "prior"), precision=each).unet for each in ("float32", "bfloat16"))
    pairings = [Pairing.of("prior", unet, "resnet", resnet) for unet in (single, half)]
    assert pairings[0] == pairings[1]
    judge = load_encoder(str(root / "judge"), layer="unpooled")
    assert Pairing.of("prior", single, "resnet", judge).network_fingerprint != pairings[0].network_fingerprint


def test_measures_are_1_for_the_original_and_lower_for_another(project):
    maps = load_encoder(str(project / "data/models/resnet"), layer="unpooled")
    judge = load_encoder(str(project / "data/models/judge"))
    images = torch.rand(4, 3, 64, 64) * torch.tensor([0.2, 1, 0.6, 0.1]).view(-1, 1, 1, 1)
    table, features = compare_images(maps, judge, images, images)
    assert torch.equal(*features) and features[0].shape == (4, judge.dim)
    np.testing.assert_allclose(table[["map_cosine", "pooled_cosine", "judge_cosine", "top1_agrees"]], 1, atol=1e-6)
    assert (table["shuffled_map_cosine"] < 1 - 1e-4).all()
    expected = map_cosine(maps.spatial(images).roll(2, 0), maps.spatial(images))
    np.testing.assert_allclose(table["shuffled_map_cosine"], expected, atol=1e-6)
    assert compare_images(maps, judge, images[:1], images[:1])[0]["shuffled_map_cosine"].isna().all()
    features = torch.randn(64, 3)
    assert frechet(features[:2], features[:2]) is None
    assert frechet(features, features + torch.tensor([3.0, 0, 0])) == pytest.approx(9, rel=1e-4)


def test_a_direction_is_a_difference_of_means_or_a_vector(project, tmp_path):
    encoder = load_encoder(str(project / "data/models/resnet"), layer="unpooled")
    channels, file = encoder.shape[0], tmp_path / "d.safetensors"
    a, b, v = torch.randn(*encoder.shape), torch.randn(*encoder.shape), torch.randn(channels)
    save_file({"cat": a, "dog": b, "direction": v}, file)
    assert torch.equal(read_direction(file, encoder, "cat", "dog"), b - a)
    assert torch.equal(read_direction(file, encoder)[:, 1, 0], v)
    save_file({"direction": torch.zeros(channels)}, file)
    with pytest.raises(FeatspaceError, match="zero or not finite"):
        read_direction(file, encoder)


def test_what_a_featinv_image_costs_is_counted(decoder):
    hint = torch.randn(1, *decoder.encoder.shape)
    once = cost_in_evaluations(decoder, hint)
    decoder.settings = decoder.settings.model_copy(update={"steps": 30})
    assert 0 < once < 3 and 8 < cost_in_evaluations(decoder, hint) / once < 10  # ten times the steps, one decoding


def test_a_saved_pipeline_decodes_the_same(decoder, tmp_path):
    pipeline, maps = decoder.pipeline, torch.randn(1, *decoder.encoder.shape)
    pipeline.save_pretrained(tmp_path / "saved")
    again = FeatInvPipeline.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    images = [each(maps, "", 2, 1.0, generator=seeded(1), output_type="pt").images for each in (pipeline, again)]
    torch.testing.assert_close(*images, atol=1.5 / 255, rtol=0)


def test_a_callback_may_change_the_latents(decoder):
    maps, steps = torch.randn(1, *decoder.encoder.shape), []

    def zero(pipeline, index, timestep, seen):
        steps.append(index)
        return {"latents": 0 * seen["latents"]} if index == 1 else None

    latents = decoder.pipeline(maps, "", 2, output_type="latent", callback_on_step_end=zero, return_dict=False)[0]
    assert steps == [0, 1] and not latents.any()
