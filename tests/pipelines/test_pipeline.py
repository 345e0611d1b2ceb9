"""The real pipeline on toy settings, network closed: photographs in, decoded images, tables and figures out."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import load_file

from featspace.cli import main
from featspace.data.features import read_features
from featspace.encoders.encoder import load_encoder
from featspace.methods.saved import as_saved, encode_as_saved
from featspace.pipelines.feature_decoding import FeatureDecodingPipeline
from featspace.stages import decode as decoding
from featspace.utils.errors import FeatspaceError, UsageError
from featspace.utils.images import read_image, square, to_tensor

pytestmark = pytest.mark.usefixtures("offline")


def build(out: Path) -> None:
    """Every stage of the toy profile, by the commands that the stages run."""
    main(["fetch", "--out", str(out / "weights.json")])
    main(["targets", "--out", str(out / "targets")])
    for encoder in ("clip", "resnet"):
        features, decoded = out / f"{encoder}.safetensors", out / "decoded" / encoder
        tables = [out / f"{kind}-{encoder}.csv" for kind in ("similarity", "references")]
        given = ["--encoder", encoder, "--targets", str(out / "targets"), "--features", str(features)]
        main(["features", "--encoder", encoder, "--targets", str(out / "targets"), "--out", str(features)])
        main(["decode", str(features), "--encoder", encoder, "--out", str(decoded)])
        main(["similarity", *given, "--decoded", str(decoded), "--out", str(tables[0])])
        main(["references", *given, "--out", str(tables[1])])
        for kind in ("photos", "captions") if encoder == "clip" else ("photos",):
            drawn = ["--decoded", str(decoded), "--table", str(tables[0]), "--references", str(tables[1])]
            main(
                [
                    "figure",
                    kind,
                    "--targets",
                    str(out / "targets"),
                    *drawn,
                    "--out",
                    str(out / f"{kind}-{encoder}"),
                ]
            )
    pairs = [
        f"--{kind}={out}/{kind}-{name}.csv" for name in ("clip", "resnet") for kind in ("similarity", "references")
    ]
    main(["metrics", *pairs, "--out", str(out / "metrics.json")])
    main(["checksums", str(out), "--out", str(out / "SHA256SUMS")])


def test_two_builds_give_the_same_bytes(tmp_path, project):
    build(tmp_path / "first")
    build(tmp_path / "second")
    first = (tmp_path / "first" / "SHA256SUMS").read_text()
    assert first == (tmp_path / "second" / "SHA256SUMS").read_text()
    assert "decoded/clip/tabby-1.png" in first and "decoded/resnet/cup-0-last.png" in first
    assert "decoded/resnet/tabby-0.png" not in first  # a ResNet has no text tower

    decoded = pd.read_csv(tmp_path / "first" / "decoded" / "clip" / "decoded.csv")
    measured = pd.read_csv(tmp_path / "first" / "similarity-clip.csv").query("image == 'best'")
    joined = decoded.merge(measured, on=["id", "sample"], suffixes=("_loop", ""))
    # The loop scores what will be saved: clamped, on 256 levels. The file says the same, within a float's rounding.
    np.testing.assert_allclose(joined["distance_loop"], joined["distance"], rtol=1e-3)
    trace = pd.read_parquet(tmp_path / "first" / "decoded" / "clip" / "trace.parquet")
    nearest = trace.groupby(["id", "sample"])[["distance_before", "distance_after"]].min().min(axis=1)
    np.testing.assert_allclose(
        decoded.set_index(["id", "sample"])["distance"],
        nearest.loc[list(zip(decoded["id"], decoded["sample"], strict=True))],
        rtol=1e-4,
    )


def test_decode_of_a_photograph(tmp_path, capsys, project):
    main(["decode", "photo.jpg", "--encoder", "resnet", "--out", str(tmp_path / "out"), "--samples", "1"])
    printed = capsys.readouterr().out
    target, decoded = (to_tensor(read_image(tmp_path / "out" / name))[None] for name in ("photo.png", "photo-0.png"))
    encoder = load_encoder(str(project / "data/models/resnet"))
    cosine = torch.cosine_similarity(encoder(target), encoder(decoded)).item()
    assert f"cosine {cosine:.4f}" in printed
    written = pd.read_csv(tmp_path / "out" / "decoded.csv")
    assert written["cosine"].tolist() == pytest.approx([cosine]) and (written["saved_distance"] > 0).all()


def test_an_image_depends_on_its_seed_and_not_on_the_batch(tmp_path, project):
    common = ["photo.jpg", "--encoder", "resnet", "--steps", "2"]
    main(["decode", *common, "--samples", "3", "--batch", "3", "--out", str(tmp_path / "a")])
    main(["decode", *common, "--samples", "3", "--batch", "1", "--out", str(tmp_path / "b")])
    main(["decode", *common, "--samples", "1", "--seed", "1", "--out", str(tmp_path / "c")])

    def apart(one, other):
        one, other = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in (one, other))
        return abs(one - other).mean()

    # Batches sum in another order, on some processors, and each evaluation makes more of it.
    assert apart("a/photo-2.png", "b/photo-2.png") < 0.5
    assert apart("a/photo-0.png", "c/photo-0.png") > 4


def test_the_preset_fast_stops_where_it_is_told_and_does_not_depend_on_the_batch(tmp_path, capsys, project):
    common = ["photo.jpg", "--encoder", "resnet", "--preset", "fast", "--evaluations", "5", "--samples", "3"]
    main(["decode", *common, "--batch", "3", "--out", str(tmp_path / "a")])
    trace = pd.read_parquet(tmp_path / "a" / "trace.parquet")
    first = trace.query("evaluation == 0").set_index("sample")["distance_before"]
    assert trace.groupby("sample").size().tolist() == [5, 5, 5] and trace["distance_after"].isna().all()
    stop_at = str(first.nsmallest(2).mean())  # between the two nearest: one sample stops at its first evaluation
    main(["decode", *common, "--batch", "2", "--out", str(tmp_path / "b"), "--stop-at", stop_at])
    decoded = pd.read_csv(tmp_path / "b" / "decoded.csv").set_index("sample")
    stopped = pd.read_parquet(tmp_path / "b" / "trace.parquet")
    assert decoded["evaluations"].tolist() == stopped.groupby("sample").size().tolist()
    assert decoded.loc[first.idxmin(), "evaluations"] == 1
    whole = trace.merge(stopped, on=["sample", "evaluation"])
    np.testing.assert_allclose(whole["distance_before_x"], whole["distance_before_y"], rtol=1e-2)
    with pytest.raises(SystemExit):
        main(["decode", *common, "--steps", "4", "--out", str(tmp_path / "c")])
    assert "steps is of the preset paper, not of fast" in capsys.readouterr().err


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
        (target, {"method": "paper", "weight": math.nan}, "weight is nan"),
        (target, {"method": "fsat"}, "no method 'fsat'; did you mean fast"),
        (target, {"weight": 1.0}, "weight is no setting of this method.*; it takes evaluations, "),
        (target, {"stop_at": math.nan}, "stop_at is NaN"),
        (target, {"output_type": "jpeg"}, "output_type is 'jpeg': it must be one of pil, np, pt, latent"),
        ([target], {}, "neither a tensor of features nor PIL images"),
    ):
        with pytest.raises(UsageError, match=message):
            pipeline(features, encoder, num_inference_steps=2, **options)
    for method in ("fast", "paper"):
        with pytest.raises(FeatspaceError, match="but the targets have 1 numbers each"):
            pipeline(target[:, :1], encoder, method, 2)
        with pytest.raises(FeatspaceError, match="no gradient"):
            pipeline(target, lambda images: encoder(images).detach(), method, 2)


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


def test_seeds_differ_by_run_target_and_sample():
    seeds = {decoding.seed_of(*key) for key in [(0, "a", 0), (0, "a", 1), (0, "b", 0), (1, "a", 0)]}
    assert len(seeds) == 4 and all(0 <= seed < 2**63 for seed in seeds)


def test_features_of_a_photograph_do_not_depend_on_the_others(tmp_path, project):
    main(["targets", "--out", str(tmp_path / "targets")])
    main(
        [
            "features",
            "--encoder",
            "clip",
            "--targets",
            str(tmp_path / "targets"),
            "--out",
            str(tmp_path / "f.safetensors"),
        ]
    )
    features, metadata = read_features(tmp_path / "f.safetensors")
    assert set(features) == {"cat", "cup", "tabby"} and metadata["encoder"] == "data/models/clip"
    encoder = load_encoder(str(project / "data/models/clip"))
    alone = encoder(to_tensor(read_image(tmp_path / "targets" / "cat.png"))[None])[0]
    torch.testing.assert_close(load_file(tmp_path / "f.safetensors")["cat"], alone, rtol=1e-5, atol=1e-5)


def test_guided_through_a_tiny_autoencoder(tmp_path, capsys):
    """From its folder, in diffusers' layout; its operations are counted, and what is saved is the large one's."""
    torch.manual_seed(0)
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(2, 2, 2),
        decoder_block_out_channels=(2, 2, 2),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    )
    tiny.save_pretrained(tmp_path / "tiny")
    params = YAML(typ="safe").load(Path("params.yaml"))
    params["mini"]["decode"] = {"preset": "fast", "evaluations": 6, "tiny_vae": str(tmp_path / "tiny")}
    YAML(typ="safe").dump(params, Path("tiny.yaml"))

    def decode(name, *options):
        main(["decode", "photo.jpg", "--encoder", "resnet", "--out", str(tmp_path / name), *options])
        return pd.read_csv(tmp_path / name / "decoded.csv") if (tmp_path / name).is_dir() else capsys.readouterr().out

    table = decode("small", "--params", "tiny.yaml")
    plain = decode("large", "--preset", "fast", "--evaluations", "6", "--samples", "1")
    assert table["distance"].item() != plain["distance"].item()
    encoder = load_encoder("data/models/resnet")
    seen, wanted = (
        encoder(to_tensor(read_image(tmp_path / "small" / name))[None]) for name in ("photo-0.png", "photo.png")
    )
    assert table["distance"].item() == pytest.approx((seen - wanted).square().sum().item(), rel=1e-3)
    capsys.readouterr()
    flops = [
        float(re.search(r"each ([0-9.]+)", decode("none", "--dry-run", *options))[1])
        for options in (["--params", "tiny.yaml"], ["--preset", "fast", "--evaluations", "6"])
    ]
    assert flops[0] < flops[1]
    (tmp_path / "tiny" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut")
    with pytest.raises(SystemExit):
        decode("broken", "--params", "tiny.yaml")
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"featspace: error: {tmp_path / 'tiny'}: cannot be read") and error.endswith("get it again")
