"""Decodes a user-specified feature of any vision network back into images, and measures the match."""

import os

# The hub's client would otherwise report to its server even when it loads a local folder.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
