"""Folders of networks from anyone: pickles in place of weights, and code beside them, which is never run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from diffusers import AutoencoderTiny, UNet2DConditionModel
from malicious import MARKER, PICKLES, refused
from tiny_models import UNET

from featspace.encoders.encoder import load_encoder
from featspace.pipelines.controlnet import FeatureControlNet, Pairing, load_controlnet, save_controlnet
from featspace.pipelines.loading import load_pipeline, load_tiny_vae


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def networks(project: Path, folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("networks")
    for name in ("prior", "resnet", "clip"):
        shutil.copytree(project / "data/models" / name, root / name)
    shutil.copytree(folders / "hf-dino", root / "dino")
    blocks = {"num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)}
    channels = {"encoder_block_out_channels": (2, 2, 2), "decoder_block_out_channels": (2, 2, 2)}
    AutoencoderTiny(**channels, **blocks).save_pretrained(root / "tiny")
    unet = UNet2DConditionModel(**UNET)
    words = dict.fromkeys(("prior", "prior_fingerprint", "network", "network_fingerprint"), "x")
    pairing = Pairing(**words, layer=None, input_size=[64, 64], hint=[4, 1, 1])
    save_controlnet(FeatureControlNet.for_unet(unet, 4, 8), pairing, root / "controlnet")
    return root


LOADERS = {"prior": load_pipeline, "tiny": load_tiny_vae, "controlnet": lambda name: load_controlnet(Path(name))}
PLACES = [
    ("resnet", "model.safetensors"),
    ("resnet", "config.json"),
    ("clip", "open_clip_model.safetensors"),
    ("clip", "open_clip_config.json"),
    ("dino", "model.safetensors"),
    ("dino", "config.json"),
    ("dino", "preprocessor_config.json"),
    ("prior", "model_index.json"),
    ("prior", "unet/diffusion_pytorch_model.safetensors"),
    ("prior", "unet/config.json"),
    ("prior", "vae/diffusion_pytorch_model.safetensors"),
    ("prior", "text_encoder/model.safetensors"),
    ("prior", "scheduler/scheduler_config.json"),
    ("prior", "tokenizer/tokenizer_config.json"),
    ("tiny", "diffusion_pytorch_model.safetensors"),
    ("controlnet", "diffusion_pytorch_model.safetensors"),
    ("controlnet", "pairing.json"),
]


@pytest.mark.parametrize("content", ["pickle", "torch.save"])
@pytest.mark.parametrize(("name", "file"), PLACES, ids=["/".join(place) for place in PLACES])
def test_a_pickle_in_a_folder_of_a_network(networks: Path, name: str, file: str, content: str) -> None:
    shutil.copytree(networks / name, name)
    assert Path(name, file).is_file()
    Path(name, file).write_bytes(PICKLES[content])
    refused(lambda: LOADERS.get(name, load_encoder)(name), Path(name, file))


CODE = f"from pathlib import Path\nPath({MARKER!r}).touch()\nclass Own:\n    from_pretrained = from_config = None\n"


@pytest.mark.parametrize(
    ("name", "config", "entry"),
    [
        ("prior", "model_index.json", {"_class_name": ["own", "Own"]}),
        ("prior", "model_index.json", {"scheduler": ["own", "Own"]}),
        ("prior", "model_index.json", {"tokenizer": ["own", "Own"]}),
        ("dino", "config.json", {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}),
        (
            "dino",
            "preprocessor_config.json",
            {"image_processor_type": "Own", "auto_map": {"AutoImageProcessor": "own.Own"}},
        ),
        ("clip", "open_clip_config.json", {"hf_tokenizer_name": "x", "tokenizer_kwargs": {"trust_remote_code": True}}),
    ],
)
def test_code_beside_weights_is_not_run(networks: Path, monkeypatch, name: str, config: str, entry: dict) -> None:
    """Nor is anyone asked whether it may be."""
    shutil.copytree(networks / name, name)
    for folder in (Path(name), *(path for path in Path(name).iterdir() if path.is_dir())):
        (folder / "own.py").write_text(CODE)
    described = json.loads(Path(name, config).read_text())
    (described["model_cfg"]["text_cfg"] if name == "clip" else described).update(entry)
    Path(name, config).write_text(json.dumps(described))
    Path(name, "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["own.Own", null]}}')
    monkeypatch.setattr("builtins.input", lambda *shown: Path(MARKER).touch() or "y")

    def read() -> None:
        network = LOADERS.get(name, load_encoder)(name)
        if name == "clip":
            network.encode_text(["a cat"])

    refused(read, Path(name, config))
