"""params.yaml: what is read, and the line a wrong one gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from featspace.config.params import DecodeParams, Params
from featspace.utils.errors import UsageError

SHIPPED = Path(__file__).parents[2] / "params.yaml"
SMALL = """\
seed: 7
tiny:
  prior: models/prior
  resolution: 64
  encoders:
    net: {network: models/net, clip_std: null, guidance_weight: 2}
    other: {network: "timm:resnet18"}
  judge: models/judge
  decode: {steps: 20, emphasis_steps: 3}
  photos:
    cat: {image: cat.png, crop: [1, 2, 30]}
  captions: {pizza: a photo of a pizza}
"""


def load(folder: Path, text: str) -> Params:
    (folder / "params.yaml").write_text(text)
    return Params.load(folder / "params.yaml")


def test_values_and_defaults(tmp_path: Path) -> None:
    params = load(tmp_path, SMALL)
    tiny = params.profile("tiny")
    assert (params.seed, params.root, list(params.profiles)) == (7, tmp_path, ["tiny"])
    assert tiny.photos["cat"].crop == [1, 2, 30]
    assert tiny.encoder("net").clip_std is None
    assert (tiny.guidance_weight("net"), tiny.guidance_weight("other")) == (2.0, 4.0)
    assert tiny.similarity.jpeg == [95, 75, 50]


def test_layers_are_in_the_order_of_the_file(tmp_path: Path) -> None:
    tiny = load(tmp_path, SMALL + "  layers: {net: {stem: 4, blocks.1: 8, blocks.0: 2, pooled: 3}}\n").profile("tiny")
    assert tiny.layers_of("net") == ["stem", "blocks.1", "blocks.0", "pooled"]
    with pytest.raises(UsageError, match="layers of 'other' are not in the profile; there are: net"):
        tiny.layers_of("other")


def test_default_schedule_is_the_papers() -> None:
    decode = DecodeParams()
    late = (decode.steps - decode.emphasis_steps) * decode.recurrences
    assert decode.emphasis_steps * decode.emphasis_recurrences + late == 12_960
    assert decode.guidance_weight == 4.0


def test_what_a_preset_does_not_take_is_refused() -> None:
    fast, paper = DecodeParams(), DecodeParams(preset="paper")
    assert fast.options == {"evaluations": 128, "stop_at": None} and "steps" in paper.options
    with pytest.raises(UsageError, match="steps is of the preset paper, not of fast"):
        fast.refuse_idle({"samples": 2, "steps": 5})
    with pytest.raises(UsageError, match="evaluations is of the preset fast, not of paper"):
        paper.refuse_idle({"evaluations": 5})


def test_shipped_file() -> None:
    mini = Params.load(SHIPPED).profile("mini")
    assert len(mini.photos) >= 8 and len(mini.captions) >= 4
    assert len({photo.image for photo in mini.photos.values()}) >= 8
    assert {"clip", "efficientnet", "vit"} == set(mini.encoders)


def test_found_in_working_directory_else_in_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Params.load().path == SHIPPED
    load(tmp_path, SMALL)
    assert Params.load().seed == 7 and Params.load().root == Path()


WRONG = [
    (
        "  judge:",
        "  layers: {nett: {blocks.0: 4}}\n  judge:",
        "tiny.layers.nett: nett is not an encoder (did you mean net?)",
    ),
    ("  judge:", "  layers: {net: {blocks.0: 1}}\n  judge:", "tiny.layers.net.blocks.0 is 1: it must be at least 2"),
    ("steps: 20", "steps: 0", "tiny.decode.steps is 0: it must be at least 2"),
    ("steps: 20", "steps: 1001", "tiny.decode.steps is 1001: it must be at most 1000"),
    ("steps: 20", "steps: true", "tiny.decode.steps is True: it must be a whole number"),
    ("steps: 20", "steps: 2", "tiny.decode.emphasis_steps is 3: it must be at most steps, 2"),
    ("steps: 20", "stepz: 20", "decode.stepz: 20 is not a parameter (did you mean steps?); there are: "),
    ("steps: 20", "preset: slow", "tiny.decode.preset is 'slow': it must be 'fast' or 'paper'"),
    ("steps: 20", "samples: 0", "tiny.decode.samples is 0: it must be at least 1"),
    ("guidance_weight: 2", "guidance_weight: -1", "net.guidance_weight is -1: it must be at least 0"),
    ("guidance_weight: 2", "guidance_weight: .inf", "net.guidance_weight is inf: it must be finite"),
    ("clip_std: null", "clip_std: 0", "tiny.encoders.net.clip_std is 0: it must be greater than 0"),
    ("clip_std: null", "clip: 3", "tiny.encoders.net.clip: 3 is not a parameter (did you mean clip_std?)"),
    ("seed: 7", "seed: -1", "seed is -1: it must be at least 0"),
    ("seed: 7\n", "", "seed is missing"),
    ("  judge: models/judge\n", "", "tiny.judge is missing"),
    ("models/judge", "models/x/../net", "tiny.judge is models/x/../net, the network of encoders.net too, which would"),
    (
        "judge: models/judge",
        "judge: timm:x\n  featinv: {controlnets: {map: {network: 'timm:x', folder: f}}}",
        "tiny.judge is timm:x, the network of featinv.controlnets.map too, which would judge itself: name another",
    ),
    ("resolution: 64", "resolution: 60", "tiny.resolution is 60: it must be a multiple of 8"),
    ("[1, 2, 30]", "[1, 2]", "tiny.photos.cat.crop is [1, 2]: it must have at least 3 entries"),
    ("image: cat.png", "img: cat.png", "photos.cat.img: 'cat.png' is not a parameter (did you mean image?)"),
    ("cat:", "Cat:", "tiny.photos has the key 'Cat': it must consist of lowercase letters, digits"),
    ("pizza:", "con:", "tiny.captions has the key 'con', which no file can have: it is a device's on Windows"),
    ("pizza:", "cat:", "tiny.captions.cat has the name of a photo"),
    ("  captions:", "  similarity: {jpeg: [95, 101]}\n  captions:", "jpeg.1 is 101: it must be at most 100"),
    ("  captions:", "  judge: twice\n  captions:", 'line 12: found duplicate key "judge"'),
    ("steps: 20", "steps: [20", "line 9: expected ',' or ']'"),
    ("tiny:", "tiny: 3\nother:", "tiny is 3: it must be a mapping"),
    (SMALL, "", "it must be a mapping"),
    (SMALL, "seed: 1", "no profile in it"),
]


@pytest.mark.parametrize(("old", "new", "message"), WRONG, ids=[new.strip()[:30] for _, new, _ in WRONG])
def test_wrong_file(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in SMALL
    with pytest.raises(UsageError) as caught:
        load(tmp_path, SMALL.replace(old, new, 1))
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / 'params.yaml'}: ") and message in line and "\n" not in line


def repeated(first: str, form: str) -> str:
    """Ten times as much as the line before, eleven times over."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{i}: &a{i} {form.format(', '.join([f'*a{i - 1}'] * 10))}" for i in range(1, 12)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            repeated("[lol]", "[{}]"),
            "its anchors stand for 234,567,901,246 values; write what is meant",
        ),
        (repeated("{k: v}", "{{<<: [{}], k: v}}"), "its anchors stand for"),
        ("a: &a [*a]", "its anchors stand for endlessly many values"),
        ("a: " + "[" * 2000, "nested too deeply; write it flatter"),
        ("a: " + "{a: " * 2000, "nested too deeply; write it flatter"),
        ("a: !!python/object/apply:os.mkdir [made]", "line 1: could not determine a constructor"),
    ],
    ids=["laughs", "merges", "itself", "lists", "mappings", "object"],
)
def test_a_file_that_grows_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"^{tmp_path}/params.yaml: {message}"):
        load(tmp_path, text)
    assert not Path("made").exists()


def test_unknown_names_list_what_exists(tmp_path: Path) -> None:
    params = load(tmp_path, SMALL)
    with pytest.raises(UsageError, match=r"profile 'tny' does not exist \(did you mean tiny\?\).* are: tiny"):
        params.profile("tny")
    with pytest.raises(UsageError, match=r"encoder 'x' is not in the profile; there are: net, other"):
        params.profile("tiny").encoder("x")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.yaml: no such file"):
        Params.load(tmp_path / "nowhere.yaml")
