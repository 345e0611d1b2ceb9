"""A decoding split into shards and merged is the decoding, byte for byte."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from featspace.cli import main
from featspace.config.params import DecodeParams, Params
from featspace.data.features import write_features
from featspace.encoders.encoder import load_encoder
from featspace.stages.ablation import settings_of
from featspace.stages.shards import Shard, batches_of

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def decode(project: Path, tmp_path_factory: pytest.TempPathFactory):
    """Decodes five targets, two of them photographs, in three groups; a function of options that returns the folder."""
    folder = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        Image.open("photo.jpg").rotate(180).save("other.png")
        encoder = load_encoder("data/models/resnet")
        features = torch.randn(3, encoder.dim, generator=torch.Generator().manual_seed(0))
        write_features(dict(zip(["null", "01", "zoo, b"], features, strict=True)), encoder, folder / "x.safetensors")
        command = ["decode", "photo.jpg", str(folder / "x.safetensors"), "other.png", "--encoder", "resnet"]
        command += ["--preset", "fast", "--evaluations", "2", "--samples", "2", "--batch", "4"]

        def run(name: str, *options: str) -> Path:
            if not (folder / name).is_dir():
                main([*command, *options, "--out", str(folder / name)])
            return folder / name

        yield run


@pytest.fixture(scope="module")
def split(decode):
    """The folders of so many shards."""
    return lambda count: [decode(f"{count}.{i}", "--shard", f"{i}/{count}") for i in range(1, count + 1)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_shards_of_a_run_make_what_the_run_makes(decode, split, tmp_path: Path, capsys, count: int) -> None:
    folders = split(count)
    (folders[0] / ".snakemake_timestamp").touch()  # a tool's, and no part of it
    main(["merge", *map(str, reversed(folders)), "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out.splitlines()[-1] == f"{tmp_path / 'out'}  10 images of 5 targets"
    assert contents(tmp_path / "out") == contents(decode("whole"))
    images = [len(list(folder.glob("*-last.png"))) for folder in folders]
    assert images == {1: [10], 2: [6, 4], 3: [4, 4, 2], 4: [4, 4, 2, 0]}[count]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    if count == 4:
        assert list(contents(folders[3])) == ["shard.json"]


def test_a_shard_is_a_folder_of_its_targets_alone(split) -> None:
    assert (split(2)[1] / "decoded.csv").read_text().count("\n") == 5
    assert {"01-0.png", "01-0-last.png", "other.png"}.isdisjoint(contents(split(2)[1]))
    assert (split(2)[0] / "other.png").is_file() and not (split(2)[0] / "null-0.png").exists()


@pytest.mark.parametrize(
    ("spoil", "status", "message"),
    [
        (lambda a, b: [a], 2, "of 2 shards not named: 2/2; decode with"),
        (lambda a, b: [a, b, a], 2, "1: is shard 1/2, as is "),
        (lambda a, b: [a, edited(b, seed=1)], 2, "(it differs in seed)"),
        (lambda a, b: [a, edited(b, of=3)], 2, "2: is one of 3 shards, "),
        (lambda a, b: [a, without(b, "shard.json")], 1, "2: holds no whole shard.json"),
        (lambda a, b: [a, without(b, "null-1.png")], 1, "2: not a whole shard (null-1.png is missing)"),
        (lambda a, b: [a, without(b, "null-1-last.png")], 1, "(null-1-last.png is missing); decode it again"),
        (lambda a, b: [a, without(b, "decoded.csv")], 1, "2: not a whole shard (decoded.csv is missing)"),
        (lambda a, b: [a, without(b, "trace.parquet")], 1, "2: not a whole shard (trace.parquet is missing)"),
        (lambda a, b: [a, cut(b / "decoded.csv")], 1, "2: not a whole shard (decoded.csv is altered)"),
        (lambda a, b: [a, cut(b / "trace.parquet")], 1, "2: not a whole shard (trace.parquet is altered)"),
        (lambda a, b: [a, emptied(b / "null-0.png")], 1, "2: not a whole shard (null-0.png is altered)"),
        (lambda a, b: [a, emptied(b / "other-9.png")], 1, "(other-9.png is additional); decode it again"),
        (lambda a, b: [edited(a, shard=2), edited(b, shard=1)], 1, "2: not a whole shard (decoded.csv has other rows)"),
        (lambda a, b: [a, cut(b / "shard.json")], 1, "2: holds no whole shard.json"),
        (lambda a, b: [a, b.parent / "3"], 2, "3: no such folder; name folders that `featspace decode --shard` wrote"),
    ],
)
def test_what_cannot_be_merged_is_one_line(split, tmp_path: Path, capsys, spoil, status: int, message: str) -> None:
    folders = [shutil.copytree(folder, tmp_path / folder.name[2:]) for folder in split(2)]
    named = [str(folder) for folder in spoil(*folders)]
    capsys.readouterr()  # of the fixture
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        main(["merge", *named, "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert stop.value.code == status and message in error and error.count("\n") == 1, error
    assert sorted(tmp_path.rglob("*")) == before


def edited(folder: Path, seed: int = 0, **values: int) -> Path:
    noted = json.loads((folder / "shard.json").read_text()) | values
    noted["run"]["seed"] = seed
    (folder / "shard.json").write_text(json.dumps(noted))
    return folder


def without(folder: Path, name: str) -> Path:
    (folder / name).unlink()
    return folder


def emptied(file: Path) -> Path:
    file.write_bytes(b"")
    return file.parent


def cut(file: Path) -> Path:
    """Leaves the first two thirds, of a table in whole lines."""
    lines = file.read_bytes().splitlines(keepends=True)
    lines = lines if file.suffix == ".csv" else [bytes([byte]) for byte in file.read_bytes()]
    file.write_bytes(b"".join(lines[: 2 * len(lines) // 3]))
    return file.parent


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "1/0", "-1/2", "1/2/3", "a/b", ""])
def test_a_shard_that_cannot_be_is_named(tmp_path: Path, capsys, project: Path, shard: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["decode", str(project / "photo.jpg"), "--encoder", "resnet", "--out", "x", f"--shard={shard}"])
    assert stop.value.code == 2 and f"shard is {shard}: name one of so many" in capsys.readouterr().err


def test_a_shard_without_images_says_so(project: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(project)
    options = ["--encoder", "resnet", "--preset", "fast", "--evaluations", "2", "--shard", "2/2"]
    main(["decode", "photo.jpg", *options, "--out", str(tmp_path / "out")])
    said = "shard 2/2: no images, as all targets are in other shards; merge it with them"
    assert capsys.readouterr().out == f"{tmp_path / 'out'}  {said}\n"


def test_a_plan_is_of_the_shard(decode, capsys) -> None:
    decode("plan", "--shard", "3/4", "--dry-run")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "images       2" and ", at most 2;" in lines[2]


@pytest.mark.parametrize(("targets", "samples", "batch"), [(5, 2, 4), (5, 3, 4), (3, 10, 4), (7, 1, 3), (1, 1, 8)])
def test_shards_share_out_the_batches(targets: int, samples: int, batch: int) -> None:
    """None crosses a group, and no shard has two groups more than another."""
    decode, names = DecodeParams(samples=samples, batch=batch), [f"t{i}" for i in range(targets)]
    whole = batches_of(names, decode)
    assert [job for jobs in whole.values() for job in jobs] == [(name, i) for name in names for i in range(samples)]
    assert max(map(len, whole.values())) <= batch
    for of in range(1, 10):
        shards = [batches_of(names, decode, Shard(number, of)) for number in range(1, of + 1)]
        assert sum(map(len, shards)) == len(whole) and {k: v for shard in shards for k, v in shard.items()} == whole
        groups = [len({name for jobs in shard.values() for name, _ in jobs}) / decode.group for shard in shards]
        assert max(groups) - min(groups) <= 1


@pytest.mark.parametrize("name", ["mini", "paper"])
def test_batches_of_the_shipped_settings_are_full(name: str) -> None:
    """As many as the batch says, but for the last."""
    profile = Params.load(PROJECT / "params.yaml").profile(name)
    targets, decode = [*profile.photos, *profile.captions], profile.decode
    runs = [(targets, decode), (targets, decode.revised(samples=1))]
    runs.append((targets[:1], decode.revised(samples=profile.spread.samples)))
    runs += [(profile.ablation.targets, setting.decode) for setting in settings_of(profile)]
    for names, own in runs:
        sizes = [len(jobs) for jobs in batches_of(names, own).values()]
        assert sizes[:-1] == [own.batch] * (len(sizes) - 1) and 0 < sizes[-1] <= own.batch
