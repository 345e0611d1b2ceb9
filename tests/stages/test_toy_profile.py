"""The real pipeline on toy settings, network closed: photographs in, decoded images, tables and figures out."""

from __future__ import annotations

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
from featspace.stages import decode as decoding
from featspace.utils.images import read_image, to_tensor

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
    pairs = [
        f"--{kind}={out}/{kind}-{name}.csv" for name in ("clip", "resnet") for kind in ("similarity", "references")
    ]
    main(["metrics", *pairs, "--out", str(out / "metrics.json")])
    drawn = ["--only", "3", "--only", "5", "--only", "8", "--only", "A1"]
    main(["figures", "--data", str(out), "--tables", str(out), "--out", str(out / "figures"), *drawn])
    main(["checksums", str(out), "--out", str(out / "SHA256SUMS")])


def test_two_builds_give_the_same_bytes(tmp_path, project):
    build(tmp_path / "first")
    build(tmp_path / "second")
    first = (tmp_path / "first" / "SHA256SUMS").read_text()
    assert first == (tmp_path / "second" / "SHA256SUMS").read_text()
    assert "figures/figure8.png" in first and "figures/figureA1.pdf" in first
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
    strip, last = (np.asarray(Image.open(tmp_path / "a" / f"photo-0{end}.png")) for end in ("-estimates", "-last"))
    shown = trace.query("sample == 0")["estimate"]
    assert shown.dropna().tolist() == list(range(5)) and strip.shape[1] == 5 * strip.shape[0]
    assert np.abs(strip[:, -len(strip) :].astype(int) - last).max() <= 1  # the last estimate is the last latent's image
    stop_at = str(first.nsmallest(2).mean())  # between the two nearest: one sample stops at its first evaluation
    main(["decode", *common, "--batch", "2", "--out", str(tmp_path / "b"), "--stop-at", stop_at])
    decoded = pd.read_csv(tmp_path / "b" / "decoded.csv").set_index("sample")
    stopped = pd.read_parquet(tmp_path / "b" / "trace.parquet")
    assert decoded["evaluations"].tolist() == stopped.groupby("sample").size().tolist()
    widths = [Image.open(tmp_path / "b" / f"photo-{sample}-estimates.png").width for sample in range(3)]
    assert widths == [64 * spent for spent in decoded["evaluations"]]
    assert decoded.loc[first.idxmin(), "evaluations"] == 1
    whole = trace.merge(stopped, on=["sample", "evaluation"])
    np.testing.assert_allclose(whole["distance_before_x"], whole["distance_before_y"], rtol=1e-2)
    with pytest.raises(SystemExit):
        main(["decode", *common, "--steps", "4", "--out", str(tmp_path / "c")])
    assert "steps is of the preset paper, not of fast" in capsys.readouterr().err


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
