"""Where published networks are to be had, as their libraries know it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from featspace.utils.errors import FeatspaceError, UsageError, suggest

LICENSE = "https://github.com/pytorch/vision#pre-trained-model-license"  # where the weights do not name their own

ENCODERS = {  # of encoders: the modules of `featspace.encoders.adapters`
    "timm": "timm:<model>[.<tag>]",
    "open_clip": "open_clip:<model>/<tag>",
    "torchvision": "torchvision:<model>/<WEIGHTS>",
    "transformers": "transformers:<repo>",
    "package": "package:<model>",
}
PIPELINE = (  # what is needed of Stable Diffusion: no safety checker, no half-precision duplicates, no pickles
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/*",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
)

AUTOENCODER = ("config.json", "diffusion_pytorch_model.safetensors")
PRIORS = {"diffusers": "diffusers:<repo>", "autoencoder": "autoencoder:<repo>"}


class Source(NamedTuple):
    """Where a network is published, as its family's module in `featspace.encoders.adapters` knows."""

    repository: str  # on the Hugging Face hub, or the web address of a folder
    files: tuple[str, ...]  # names, which must be there, and patterns, which may match nothing
    license: str = ""  # its page; by default the repository's own

    @property
    def page(self) -> str:
        return self.license or f"https://huggingface.co/{self.repository}"  # also where a mirror is used

    @property
    def is_address(self) -> bool:
        return "://" in self.repository


def source_of(network: str) -> Source:
    """Where `<family>:<name>` is published. Raises UsageError for an unknown one, FeatspaceError for a mere pickle."""
    family, _, name = network.partition(":")
    if family in PRIORS:
        return Source(name, PIPELINE if family == "diffusers" else AUTOENCODER)
    if family not in ENCODERS:
        known = ENCODERS | PRIORS
        choices = f"name a folder, or {', '.join(known.values())}"
        raise UsageError(f"{network}: no such kind of network{suggest(family, known)}; {choices}")
    return _SOURCES[family](name)


def _timm(name: str) -> Source:
    """`<model>[.<tag>]` on the hub. Raises UsageError for an unknown one, FeatspaceError for a mere pickle."""
    import timm

    architecture, _, tag = name.partition(".")
    check_timm(f"timm:{name}", architecture)
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if not tags or (tag and tag not in tags):
        listed = f"its tags are {', '.join(tags)}" if tags else "timm publishes none of this model"
        raise UsageError(f"timm:{name}: no such weights; {listed}")
    repo = timm.get_pretrained_cfg(name).hf_hub_id
    if not repo:
        raise FeatspaceError(f"timm:{name}: published only as a pickle, which can run code when it is loaded")
    return Source(repo, ("model.safetensors",))


def check_timm(source: str | Path, architecture: str) -> None:
    """Raises UsageError for a model that timm has not."""
    import timm

    if not timm.is_model(architecture):
        close = suggest(architecture, timm.list_models())
        raise UsageError(f"{source}: timm has no model {architecture!r}{close}")


def _open_clip(name: str) -> Source:
    """`<model>/<tag>` on the hub. Raises UsageError for an unknown one, FeatspaceError for a mere pickle."""
    import open_clip

    model_name, _, tag = name.partition("/")
    if model_name not in open_clip.list_models():
        close = suggest(model_name, open_clip.list_models())
        raise UsageError(f"open_clip:{name}: open_clip has no model {model_name!r}{close}")
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    if tag not in tags:
        missing = f"no weights {tag!r}" if tag else "the weights are named after a slash"
        raise UsageError(f"open_clip:{name}: {missing}; its tags are {', '.join(tags) or 'none'}")
    repo, file = open_clip_file(name)
    if not repo:
        raise FeatspaceError(f"open_clip:{name}: published only as a pickle, which can run code when it is loaded")
    return Source(repo, (file,))


def open_clip_file(name: str) -> tuple[str, str]:
    """Repository, if any, and file of `<model>/<tag>`."""
    import open_clip

    model_name, _, tag = name.partition("/")
    repo, _, file = open_clip.get_pretrained_cfg(model_name, tag).get("hf_hub", "").rpartition("/")
    return repo, str(Path(file or "open_clip_model").with_suffix(".safetensors"))


def _torchvision(name: str) -> Source:
    """`<model>/<WEIGHTS>` on PyTorch's server. Raises UsageError for an unknown one."""
    weights = torchvision_weights(name)
    address, _, file = weights.url.rpartition("/")
    return Source(address, (file,), weights.meta.get("license", LICENSE))


def torchvision_weights(name: str) -> Any:
    """The weights of `<model>/<WEIGHTS>`, an entry of torchvision's. Raises UsageError for an unknown one."""
    import torchvision

    model_name, _, tag = name.partition("/")
    known = torchvision.models.list_models(module=torchvision.models)
    if model_name not in known:
        close = suggest(model_name, known)
        raise UsageError(f"torchvision:{name}: torchvision has no model {model_name!r}{close}")
    members = torchvision.models.get_model_weights(model_name).__members__
    if tag not in members:
        missing = f"no weights {tag!r}" if tag else "the weights are named after a slash"
        raise UsageError(f"torchvision:{name}: {missing}; there are {', '.join(members)}")
    return members[tag]


def _transformers(repo: str) -> Source:
    """A repository of the Hugging Face hub; its weights may be in several parts."""
    text = ("tokenizer*", "vocab*", "merges*", "spiece*", "special_tokens_map*", "added_tokens*")
    return Source(repo, ("config.json", "preprocessor_config.json", "model*.safetensors*", *text))


_SOURCES = {"timm": _timm, "open_clip": _open_clip, "torchvision": _torchvision, "transformers": _transformers}
