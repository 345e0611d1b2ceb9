"""Files that run code where they are unpickled: they create a file `MARKER` in the working directory."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featspace.utils.errors import FeatspaceError

MARKER = "unpickled"


class Malicious:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path(MARKER),)


def _written(write) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


ARRAY = np.array([Malicious()], dtype=object)
PICKLES = {
    "pickle": pickle.dumps(Malicious()),
    "text pickle": pickle.dumps(Malicious(), protocol=0),
    "torch.save": _written(lambda file: torch.save({"w": Malicious()}, file)),
    "old torch.save": _written(lambda file: torch.save(Malicious(), file, _use_new_zipfile_serialization=False)),
    "npy": _written(lambda file: np.save(file, ARRAY, allow_pickle=True)),
    "npz": _written(lambda file: np.savez(file, w=ARRAY)),
}


def refused(read: Callable[[], Any], path: Path) -> None:
    """That reading `path` fails with one line, which names it or a folder of it, and runs nothing."""
    with pytest.raises(FeatspaceError) as caught:
        read()
    line = str(caught.value)
    assert line.isprintable() and not Path(MARKER).exists(), line
    assert path.name in line or str(path).startswith(line.split(": ")[0]), line
    assert "weights_only" not in line and "allow_pickle" not in line, line  # no advice to run it after all


NAMES = (
    "../x",
    "a/../../x",
    "/x",
    "..",
    "..\\x",
    "C:x",
    "a\nb",
    "a\0b",
    "CON",
    "nul.png",
    "x.",
    "x ",
    ".x",
    "x" * 201,
    "..\uff0fx",
    "a\u2215b",
    "a\u202eb",
)
"""That no file may have: they lead out of a folder, end a line, are another file or none on some system, or look so."""
