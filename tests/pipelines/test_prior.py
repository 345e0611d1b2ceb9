"""Stable Diffusion v1-4 as it was published: its real shapes without memory, its layout with tiny weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from featspace_training.prior import clip_tokenizer
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from featspace.methods.saved import encode_as_saved
from featspace.pipelines.feature_decoding import FeatureDecodingPipeline
from featspace.stages.decode import load_pipeline
from featspace.utils.errors import FeatspaceError

# The published files. What is not in them has diffusers' default value: the VAE's scaling factor, for one.
UNET = {
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
VAE = {
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
TEXT = {
    "architectures": ["CLIPTextModel"],
    "bos_token_id": 0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "vocab_size": 49408,
}
SCHEDULER = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.2.2",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
SMALL_UNET = UNET | {"block_out_channels": [32, 32, 64, 64], "cross_attention_dim": 48, "sample_size": 8}
SMALL_VAE = VAE | {"block_out_channels": [32, 32, 64, 64], "sample_size": 64}
SMALL_TEXT = TEXT | {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2}


def models(unet: dict, vae: dict, text: dict) -> list[torch.nn.Module]:
    return [
        UNet2DConditionModel.from_config(unet).eval(),
        AutoencoderKL.from_config(vae).eval(),
        CLIPTextModel(CLIPTextConfig(**text)).eval(),
    ]


def test_published_shapes() -> None:
    with torch.device("meta"):
        unet, vae, text_encoder = models(UNET, VAE, TEXT)
    sizes = {name: sum(p.numel() for p in model.parameters()) for name, model in named(unet, vae, text_encoder)}
    assert sizes == {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}
    pipeline = FeatureDecodingPipeline(
        vae, text_encoder, clip_tokenizer(77), unet, PNDMScheduler.from_config(SCHEDULER)
    )
    prior = pipeline.prior()
    assert prior.prompt.shape == (1, 77, 768) and prior.prediction_type == "epsilon"
    assert prior.latent_shape == (4, 64, 64) and vae.config.scaling_factor == 0.18215

    for model in (unet, vae, text_encoder):
        model.requires_grad_(False)
    z = torch.empty(2, *prior.latent_shape, device="meta", requires_grad=True)
    images = prior.decode(z - prior.predict_noise(z, 999))
    assert images.shape == (2, 3, 512, 512)
    distance = encode_as_saved(lambda seen: seen.mean((2, 3)))(images).square().sum(1)
    assert distance.shape == (2,)
    assert torch.autograd.grad(distance.sum(), z)[0].shape == z.shape
    assert prior.encode(images.detach()).shape == z.shape


def named(*modules: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    return list(zip(("unet", "vae", "text_encoder"), modules, strict=True))


def write_published_layout(folder: Path, *modules: torch.nn.Module) -> None:
    """Files as on the hub: names of weights and of tokenizer files that newer versions of the libraries changed."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for (name, model), config in zip(named(*modules), (SMALL_UNET, SMALL_VAE, SMALL_TEXT), strict=True):
        weights = {key: value.contiguous() for key, value in model.state_dict().items()}
        if name == "vae":
            for new, before in old.items():
                weights = {key.replace(f".{new}.", f".{before}."): value for key, value in weights.items()}
            assert "decoder.mid_block.attentions.0.proj_attn.weight" in weights
        if name == "text_encoder":
            weights = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in weights.items()}
            weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        (folder / name).mkdir(parents=True)
        file = "model.safetensors" if name == "text_encoder" else "diffusion_pytorch_model.safetensors"
        save_file(weights, folder / name / file, metadata={"format": "pt"})
        (folder / name / "config.json").write_text(json.dumps(config | {"_class_name": type(model).__name__}))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps(SCHEDULER | {"_class_name": "PNDMScheduler"})
    )
    (folder / "model_index.json").write_text(json.dumps(INDEX))
    write_tokenizer(folder / "tokenizer")


def write_tokenizer(folder: Path) -> None:
    clip_tokenizer(77).save_pretrained(folder)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]))
    end = {"content": "<|endoftext|>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    special = {"bos_token": end | {"content": "<|startoftext|>"}, "eos_token": end, "unk_token": end}
    special["pad_token"] = "<|endoftext|>"
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    tagged = {key: value if key == "pad_token" else value | {"__type": "AddedToken"} for key, value in special.items()}
    more = {"model_max_length": 77, "do_lower_case": True, "errors": "replace", "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tagged | more | {"add_prefix_space": False}))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[torch.nn.Module]]:
    """A folder in the published layout, and the models whose weights are in it."""
    torch.manual_seed(0)
    modules = models(SMALL_UNET, SMALL_VAE, SMALL_TEXT)
    for parameter in (p for module in modules for p in module.parameters() if p.ndim == 1):
        torch.nn.init.normal_(parameter, 1.0, 0.2)  # biases too, so that one in another's place is seen
    folder = tmp_path_factory.mktemp("published") / "sd"
    write_published_layout(folder, *modules)
    return folder, modules


@torch.no_grad()
def test_published_layout(saved: tuple[Path, list[torch.nn.Module]]) -> None:
    folder, modules = saved
    unet, vae, text_encoder = modules
    pipeline = load_pipeline("sd", folder.parent)
    for name, module in named(*modules):
        loaded = getattr(pipeline, name).state_dict()
        assert loaded.keys() == module.state_dict().keys()
        assert all(torch.equal(loaded[key].cpu(), value) for key, value in module.state_dict().items())

    prior = pipeline.to("cpu").prior()
    tokens = torch.tensor([[49406] + [49407] * 76])  # the empty prompt, padded with the end of text
    torch.testing.assert_close(prior.prompt, text_encoder(tokens).last_hidden_state)
    words = pipeline.tokenizer(["A black motorbike"]).input_ids
    assert words == clip_tokenizer(77)(["A black motorbike"]).input_ids and len(words[0]) == 5
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    np.testing.assert_allclose(prior.alphas_cumprod.numpy(), np.cumprod(1 - betas), rtol=1e-5)
    z = torch.randn(2, *prior.latent_shape)
    predicted = unet(z, 500, prior.prompt.expand(2, -1, -1)).sample
    torch.testing.assert_close(prior.predict_noise(z, 500), predicted, rtol=1e-4, atol=1e-5)
    images = vae.decode(z / 0.18215).sample
    torch.testing.assert_close(prior.decode(z), images, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        prior.encode(images), vae.encode(images).latent_dist.mean * 0.18215, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("damage", ["missing", "shape"])
@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder"])
def test_weights_that_do_not_fit(saved: tuple, tmp_path: Path, name: str, damage: str) -> None:
    """The libraries would put random numbers in the place of some that are missing."""
    shutil.copytree(saved[0], tmp_path / "sd")
    file = next((tmp_path / "sd" / name).glob("*.safetensors"))
    weights = load_file(file)
    key = next(key for key in weights if key.endswith("conv_out.weight" if name != "text_encoder" else "fc1.weight"))
    last = weights.pop(key)
    save_file(weights if damage == "missing" else weights | {key: last[1:].clone()}, file, metadata={"format": "pt"})
    with pytest.raises(
        FeatspaceError, match=key.removeprefix("text_model.") if damage == "missing" else "sd: "
    ) as caught:
        load_pipeline("sd", tmp_path)
    assert str(tmp_path / "sd") in str(caught.value) and "\n" not in str(caught.value)
