"""Long decodings: cut off and taken up again, short of memory, with gradients that are not finite."""

from __future__ import annotations

import gc
import hashlib
import re
import shutil

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from featspace.cli import main
from featspace.encoders.encoder import Encoder
from featspace.pipelines.feature_decoding import FeatureDecodingPipeline
from featspace.stages import decode as decoding
from featspace.utils import resuming as unfinished
from featspace.utils.errors import FeatspaceError
from featspace.utils.locks import alone

pytestmark = pytest.mark.usefixtures("offline")
call = FeatureDecodingPipeline.__call__


def decode(out, *options: str) -> dict[str, str]:
    """Decodes two photographs, two images each, two at once; returns the SHA-256 of what was written."""
    Image.open("photo.jpg").rotate(180).save("other.png")
    main(["decode", "photo.jpg", "other.png", "--encoder", "resnet", "--batch", "2", "--out", str(out), *options])
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())}


def fail(arguments, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        decode(*arguments)
    error = capsys.readouterr().err
    assert stop.value.code and (stop.value.code == 130) == error.endswith("error: interrupted\n")
    return error


def interrupt_at(monkeypatch, number: int) -> list[int]:
    """Ctrl-C at the call of the pipeline with this number; returns the list that the sizes of batches go to."""
    batches: list[int] = []

    def counting(self, features, *args, **options):
        batches.append(len(features))
        if len(batches) == number:
            raise KeyboardInterrupt
        return call(self, features, *args, **options)

    monkeypatch.setattr(FeatureDecodingPipeline, "__call__", counting)
    return batches


@pytest.mark.parametrize("preset", [(), ("--preset", "fast", "--evaluations", "3")], ids=["paper", "fast"])
def test_an_interrupted_run_goes_on_from_its_finished_images(tmp_path, capsys, monkeypatch, preset):
    whole = decode(tmp_path / "whole", *preset)
    batches = interrupt_at(monkeypatch, 2)
    error = fail([tmp_path / "out", *preset], capsys)
    assert "out.unfinished: 2 finished images are kept" in error and error.endswith("error: interrupted\n")
    assert not (tmp_path / "out").exists()
    assert decode(tmp_path / "out", *preset) == whole
    assert batches == [2, 2, 2]  # the first two images were not decoded again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_a_failure_after_the_last_image_loses_none(tmp_path, capsys, monkeypatch):
    whole = decode(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "_measured", lambda *_: (_ for _ in ()).throw(FeatspaceError("disk full")))
        assert "disk full" in fail([tmp_path / "out"], capsys)
    assert (tmp_path / "out.unfinished" / "photo-1.png").is_file() and not (tmp_path / "out").exists()
    batches = interrupt_at(monkeypatch, -1)
    assert decode(tmp_path / "out") == whole
    assert batches == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_a_disk_that_is_full_in_mid_run_is_named_and_the_same_command_goes_on(tmp_path, capsys, monkeypatch):
    whole = decode(tmp_path / "whole")
    full = tmp_path / "out.unfinished" / "other-0.png"

    def filling(self, features, *args, **options):
        if not full.is_symlink():
            full.symlink_to("/dev/full")
        return call(self, features, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureDecodingPipeline, "__call__", filling)
        kept, line = fail([tmp_path / "out"], capsys).splitlines()[-2:]
    assert kept.endswith("out.unfinished: 2 finished images are kept; the same command goes on from them")
    said = "no space left on the disk of .*out.unfinished: free some, and run the same command again"
    assert re.fullmatch(f"featspace: error: {said}", line)
    full.unlink()
    assert decode(tmp_path / "out") == whole


def test_an_interrupted_run_is_not_mixed_with_another(tmp_path, capsys, monkeypatch):
    interrupt_at(monkeypatch, 2)
    fail([tmp_path / "out"], capsys)
    error = fail([tmp_path / "out", "--weight", "1"], capsys)
    assert "out.unfinished: holds 2 finished images of a run with other settings" in error
    assert (tmp_path / "out.unfinished" / "photo-1.png").is_file()


def test_an_interrupted_run_does_not_go_on_with_other_weights(tmp_path, capsys, monkeypatch):
    network = tmp_path / "network"
    shutil.copytree("data/models/resnet", network)
    interrupt_at(monkeypatch, 2)
    command = ["decode", "photo.jpg", "--encoder", str(network), "--batch", "1", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        main(command)
    weights = network / "model.safetensors"
    save_file({name: 1.01 * tensor for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(SystemExit):
        main(command)
    assert "holds 1 finished images of a run with other settings" in capsys.readouterr().err


def test_a_run_that_was_killed_before_its_first_image_stands_in_nobodys_way(tmp_path, capsys, monkeypatch):
    interrupt_at(monkeypatch, 1)
    with monkeypatch.context() as patch:
        patch.setattr(unfinished, "discard", lambda *_: None)  # a killed process removes nothing
        assert "finished images" not in fail([tmp_path / "out"], capsys)
    assert (tmp_path / "out.unfinished").is_dir()
    decode(tmp_path / "out", "--weight", "1")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_fewer_images_at_once_where_memory_is_short(tmp_path, capsys, monkeypatch):
    whole = decode(tmp_path / "whole")

    def small(self, features, *args, **options):
        if len(features) > 1:
            raise torch.OutOfMemoryError("too large")
        return call(self, features, *args, **options)

    monkeypatch.setattr(FeatureDecodingPipeline, "__call__", small)
    spared = decode(tmp_path / "out")
    assert "out of memory with 2 images at once: going on with 1" in capsys.readouterr().err
    assert whole.keys() == spared.keys()
    tables = [pd.read_csv(tmp_path / name / "decoded.csv") for name in ("whole", "out")]
    pd.testing.assert_frame_equal(*tables, rtol=0.02)  # kernels round otherwise for another batch


def test_activations_are_computed_twice_before_giving_up(tmp_path, capsys, monkeypatch):
    tried = []

    def full(self, features, *args, **options):
        tried.append((len(features), self.unet.is_gradient_checkpointing and self.vae.is_gradient_checkpointing))
        raise torch.OutOfMemoryError("tried to allocate 20 GiB")

    monkeypatch.setattr(FeatureDecodingPipeline, "__call__", full)
    error = fail([tmp_path / "out"], capsys)
    assert tried == [(2, False), (1, False), (1, True)]
    assert "even with one image at once, recomputing activations (tried to allocate 20 GiB)" in error
    assert list(tmp_path.iterdir()) == []


def test_recomputing_activations_changes_no_image(tmp_path, monkeypatch):
    whole = decode(tmp_path / "whole")

    def checkpointed(self, *args, **options):
        self.unet.enable_gradient_checkpointing()
        self.vae.enable_gradient_checkpointing()
        return call(self, *args, **options)

    monkeypatch.setattr(FeatureDecodingPipeline, "__call__", checkpointed)
    again = decode(tmp_path / "out")
    assert {k: v for k, v in again.items() if k.endswith(".png")} == {
        k: v for k, v in whole.items() if k.endswith(".png")
    }


def not_finite(monkeypatch, passes: range) -> None:
    """The encoder's gradient is NaN in these passes; its value is untouched."""
    calls = []
    forward = Encoder.forward

    def broken(self, images):
        out = forward(self, images)
        if out.requires_grad:
            calls.append(None)
            if len(calls) - 1 in passes:
                out.register_hook(lambda gradient: gradient * torch.nan)
        return out

    monkeypatch.setattr(Encoder, "forward", broken)


FAST = ("--preset", "fast", "--evaluations", "6")


@pytest.mark.parametrize(
    ("preset", "step", "passes"), [((), 999, range(1, 2)), (FAST, 795, range(2, 4))], ids=["paper", "fast"]
)
def test_a_gradient_that_is_not_finite_is_named_and_counted(tmp_path, capsys, monkeypatch, preset, step, passes):
    """It is that of the second evaluation; one of fast passes the encoder twice."""
    not_finite(monkeypatch, passes)
    decode(tmp_path / "out", "--samples", "1", *preset)
    error = capsys.readouterr().err
    assert f"photo-0: the guidance gradient is not finite at timestep {step}: left unguided there" in error
    assert pd.read_csv(tmp_path / "out" / "decoded.csv")["unguided"].tolist() == [1, 1]


@pytest.mark.parametrize("preset", [("--recurrences", "3"), FAST], ids=["paper", "fast"])
def test_gradients_that_stay_not_finite_end_the_run(tmp_path, capsys, monkeypatch, preset):
    not_finite(monkeypatch, range(3, 1000))
    monkeypatch.setattr(decoding.Watch, "LIMIT", 3)
    error = fail([tmp_path / "out", "--samples", "1", *preset], capsys)
    assert "the guidance gradient is not finite at timestep" in error and "for 3 evaluations in a row" in error
    assert list(tmp_path.iterdir()) == []


def test_bfloat16_is_the_priors_alone(tmp_path, monkeypatch):
    seen = []

    def observed(self, features, encoder, *args, **options):
        out = call(self, features, encoder, *args, **options)
        seen.append((self.unet.dtype, self.vae.dtype, next(encoder.parameters()).dtype, out[-1].latents.dtype))
        return out

    monkeypatch.setattr(FeatureDecodingPipeline, "__call__", observed)
    decode(tmp_path / "exact", "--samples", "1")
    decode(tmp_path / "rough", "--samples", "1", "--precision", "bfloat16")
    exact, rough = (torch.float32,) * 4, (torch.bfloat16, torch.bfloat16, torch.float32, torch.float32)
    assert seen == [exact, rough]
    tables = [pd.read_csv(tmp_path / name / "decoded.csv") for name in ("exact", "rough")]
    assert not tables[0]["distance"].equals(tables[1]["distance"])
    pd.testing.assert_series_equal(tables[0]["distance"], tables[1]["distance"], rtol=0.3)


def test_a_second_run_into_the_same_folder_is_refused_and_the_first_ends_as_if_alone(tmp_path, capsys, monkeypatch):
    whole = decode(tmp_path / "whole")
    errors = []

    def meanwhile(self, features, *args, **options):
        if not errors:
            errors.append("")  # the second run gets here, too, if nothing stops it
            errors[0] = fail([tmp_path / "out"], capsys)
        return call(self, features, *args, **options)

    monkeypatch.setattr(FeatureDecodingPipeline, "__call__", meanwhile)
    assert decode(tmp_path / "out") == whole
    assert errors[0].endswith("out: another run is making it; wait for it to end, or name another path\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_a_lock_ends_with_the_run_that_failed(tmp_path):
    with pytest.raises(RuntimeError), alone(tmp_path / "out"):
        raise RuntimeError
    with alone(tmp_path / "out"):
        pass
    assert not list(tmp_path.iterdir())


def test_what_is_held_does_not_grow_with_the_targets(tmp_path, monkeypatch):
    held = []

    def counting(self, features, *args, **options):
        gc.collect()
        held.append(sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()))
        return call(self, features, *args, **options)

    monkeypatch.setattr(FeatureDecodingPipeline, "__call__", counting)
    photographs = [str(tmp_path / f"p{number}.png") for number in range(12)]
    for number, path in enumerate(photographs):
        Image.open("photo.jpg").rotate(30 * number).save(path)
    fast = ["--preset", "fast", "--evaluations", "2", "--samples", "1", "--batch", "2"]
    main(["decode", *photographs, "--encoder", "resnet", *fast, "--out", str(tmp_path / "out")])
    assert len(held) == 6 and held[-1] == held[1]  # the first call has what is made once
