"""The seeds of images."""

from __future__ import annotations

import hashlib


def seed_of(seed: int, target: str, sample: int) -> int:
    """The seed of one image's noise, from the run's seed, the target's id and the sample's index, below 2⁶³."""
    digest = hashlib.sha256(f"{seed}/{target}/{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
