"""The cost of a decoding, foreseen without weights, against the same networks with them."""

from __future__ import annotations

import re

import psutil
import pytest
import torch
from torch import nn

from featspace.cli import main
from featspace.encoders.encoder import load_encoder
from featspace.pipelines.loading import load_pipeline
from featspace.priors.architectures import blank_prior
from featspace.stages import decode as decoding
from featspace.stages import memory, plan
from featspace.stages.memory import evaluation_cost, fitting_batch
from featspace.stages.plan import matrix_rate
from featspace.utils import devices
from featspace.utils.devices import GIB, choose_device, free_memory
from featspace.utils.errors import FeatspaceError

pytestmark = pytest.mark.usefixtures("offline")
PRIOR = "data/models/prior"


class Pooled(nn.Module):
    """A network of 3·8 multiplications a pixel."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 1, bias=False).requires_grad_(False)

    def forward(self, images):
        return self.layer(images.float()).tanh().mean((2, 3))


def costs(device: str, dtype=torch.float32, recompute: bool = False):
    with torch.device(device):
        prior, encoder = blank_prior(PRIOR, dtype=dtype), Pooled()
    for network in (prior.unet, prior.vae):
        if recompute:
            network.enable_gradient_checkpointing()
    return evaluation_cost(prior, encoder), prior, encoder


def test_cost_on_the_meta_device_is_that_of_the_real_networks():
    foreseen, prior, encoder = costs("meta")
    real = costs("cpu")[0]
    # How attention is computed, what it takes and what it keeps, is the device's choice.
    assert foreseen.flops == pytest.approx(real.flops, rel=0.05)
    assert real.kept <= foreseen.kept < 1.25 * real.kept
    sizes = [4 * p.numel() for part in (prior.unet, prior.vae, encoder) for p in part.parameters()]
    assert foreseen.weights == sum(sizes)


def test_cost_of_the_encoder_is_two_passes_forward_and_one_back():
    with torch.device("meta"):
        prior, encoder = blank_prior(PRIOR), Pooled()
        nothing = nn.Module()
        nothing.forward = lambda images: images.mean((2, 3))
    pixels = 64 * 64
    with_it, without = evaluation_cost(prior, encoder).flops, evaluation_cost(prior, nothing).flops
    assert with_it - without == 3 * 2 * 3 * 8 * pixels


def test_half_precision_halves_weights_and_recomputing_spares_memory_for_operations():
    full, half, spared = costs("meta")[0], costs("meta", torch.bfloat16)[0], costs("meta", recompute=True)[0]
    assert half.flops == full.flops and half.weights == pytest.approx(full.weights / 2, rel=1e-3)
    assert 0.45 < half.kept / full.kept < 0.7
    assert spared.kept < 0.3 * full.kept and spared.flops > 1.1 * full.flops


def test_a_matrix_rate_is_measured():
    assert 1e8 < matrix_rate(torch.device("cpu"), torch.float32, seconds=0.05) < 1e14


@pytest.mark.parametrize(
    ("encoder", "limit", "spared"),
    [("open_clip:RN50/openai", 11, 4), ("torchvision:vit_h_14/IMAGENET1K_SWAG_E2E_V1", 22, 12)],
)
def test_one_image_of_the_paper_fits_a_consumer_card(encoder, limit, spared):
    """Weights and kept activations in GiB, with the paper's networks in their real shapes."""
    with torch.device("meta"):
        prior = blank_prior("diffusers:CompVis/stable-diffusion-v1-4", dtype=torch.bfloat16)
        network = load_encoder(encoder, weights=False)
    cost = evaluation_cost(prior, network)
    assert (cost.weights + cost.kept) / GIB < 0.85 * limit
    for part in (prior.unet, prior.vae):
        part.enable_gradient_checkpointing()
    cost = evaluation_cost(prior, network)
    assert (cost.weights + cost.kept) / GIB < spared


def test_the_batch_follows_from_the_free_memory():
    prior, encoder = load_pipeline(PRIOR).prior(), load_encoder("data/models/resnet")
    with torch.device("meta"):
        kept = evaluation_cost(blank_prior(PRIOR), load_encoder("data/models/resnet", weights=False)).kept
    before = prior.unet.conv_in.weight
    assert [fitting_batch(prior, encoder, int(free * kept), 8) for free in (0.9, 1.4, 4, 40)] == [0, 1, 3, 8]
    assert prior.unet.conv_in.weight is before and before.device.type == "cpu"


def test_free_memory_of_the_cpu_is_within_the_containers_limit(tmp_path, monkeypatch):
    cpu, limit = torch.device("cpu"), tmp_path / "memory.max"
    free, own = free_memory(cpu), psutil.Process().memory_info().rss
    assert 0 < free <= psutil.virtual_memory().total
    monkeypatch.setattr(devices, "LIMITS", [tmp_path / "none", limit])
    limit.write_text("max\n")
    assert free_memory(cpu) == pytest.approx(free, rel=0.5)
    limit.write_text(f"{own + 2**22}\n")
    assert free_memory(cpu) == pytest.approx(2**22, abs=2**22)
    limit.write_text("1000\n")
    assert free_memory(cpu) == 0


@pytest.mark.parametrize(("share", "batches", "spared"), [(100, [2], False), (1.1, [1, 1], True)])
def test_a_decoding_keeps_to_the_free_memory(tmp_path, monkeypatch, capsys, share, batches, spared):
    """`share` is of what one image takes with activations recomputed, below which the decoding is refused."""
    with torch.device("meta"):
        prior = blank_prior(PRIOR)
    encoder = memory._shapes_of(load_encoder("data/models/resnet"))
    for part in (prior.unet, prior.vae):
        part.enable_gradient_checkpointing()
    free, seen = int(share * evaluation_cost(prior, encoder).kept), []
    call = decoding.FeatureDecodingPipeline.__call__

    def look(self, features, *args, **options):
        seen.append((len(features), self.unet.is_gradient_checkpointing))
        return call(self, features, *args, **options)

    monkeypatch.setattr(decoding.FeatureDecodingPipeline, "__call__", look)
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    main(["decode", "photo.jpg", "--encoder", "resnet", "--out", str(tmp_path / "out")])
    assert seen == [(batch, spared) for batch in batches]
    error = capsys.readouterr().err
    assert ("recomputing activations" in error) == spared
    assert ("memory for 1 instead of 2 images at once, which changes them by rounding" in error) == spared
    monkeypatch.setattr(memory, "free_memory", lambda device: free // (share * 1.1))
    if spared:
        with pytest.raises(SystemExit) as stop:
            main(["decode", "photo.jpg", "--encoder", "resnet", "--out", str(tmp_path / "more")])
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert stop.value.code == 1 and seen == [(batch, spared) for batch in batches]  # nothing was computed
        assert "data/models/resnet: to guide one image through it, at its 64x64 pixels, takes" in line
        assert "GiB are free; take a network" in line and not (tmp_path / "more").exists()


def test_a_dry_run_says_what_the_run_will_do(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plan, "matrix_rate", lambda *_: 1e9)
    command = ["decode", "photo.jpg", "--text", "a cup", "--encoder", "clip", "--out", str(tmp_path / "out")]
    main([*command, "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["images", "evaluations", "memory", "device", "time"]
    assert lines[0].split()[1] == "4" and lines[1].split()[1] == "4"  # 2 targets, 2 samples; 2 + 1 + 1 evaluations
    with torch.device("meta"):
        cost = evaluation_cost(blank_prior(PRIOR), load_encoder("data/models/clip", weights=False))
    seconds = int(re.search(r"about (\d+) seconds", lines[4])[1])
    assert seconds == round(4 * 4 * cost.flops / (plan.UTILIZATION * 1e9))
    assert list(tmp_path.iterdir()) == []


def test_where_a_gpu_is_asked_for_and_there_is_none(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # on a machine that has one, too
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    command = ["decode", "photo.jpg", "--encoder", "resnet", "--device", "cuda", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        main(command)
    error = capsys.readouterr().err
    assert stop.value.code == 1 and len(error.splitlines()) == 1
    assert "device is cuda, but no GPU can be used here" in error and "device: cpu" in error
    assert list(tmp_path.iterdir()) == []
    main([*command, "--dry-run"])  # which still says what it would take
    assert "none: device is cuda" in capsys.readouterr().out


def test_a_driver_that_is_too_old_is_named(monkeypatch):
    """PyTorch warns of it when asked for a GPU, and raises when one is used."""
    message = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver."

    def raises():
        raise RuntimeError(message)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", raises)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(FeatspaceError, match=r"driver on your system is too old \(found version 11040\)"):
        choose_device("cuda")
