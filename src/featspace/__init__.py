"""Decodes a user-specified feature of any vision network back into images, and measures the match."""

from __future__ import annotations

import importlib
import os
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featspace.encoders.encoder import load_encoder as load_encoder
    from featspace.pipelines.decode import decode as decode
    from featspace.pipelines.featinv import FeatInvPipeline as FeatInvPipeline
    from featspace.pipelines.feature_decoding import FeatureDecodingPipeline as FeatureDecodingPipeline

# The hub's client would otherwise report to its server even when it loads a local folder.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

__version__ = version("featspace")
__all__ = ["FeatInvPipeline", "FeatureDecodingPipeline", "__version__", "decode", "load_encoder"]

_PUBLIC = {
    "FeatInvPipeline": "pipelines.featinv",
    "FeatureDecodingPipeline": "pipelines.feature_decoding",
    "decode": "pipelines.decode",
    "load_encoder": "encoders.encoder",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for: the libraries behind it take seconds."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
