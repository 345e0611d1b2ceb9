"""What `torch.save` wrote, read without running what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from featspace.utils.errors import FeatspaceError, memory_errors


def read_checkpoint(path: Path, device: torch.device | str = "cpu", mmap: bool = False) -> Any:
    """The tensors and plain values of a file of `torch.save`; `mmap`: read from the disk as they are used.

    Such a file is a pickle, of which nothing but these is made. Raises FeatspaceError if it names anything else, is
    damaged, or cannot be read.
    """
    try:
        with memory_errors():
            return torch.load(path, map_location=device, weights_only=True, mmap=mmap)  # noqa: TID251 - the only place
    except MemoryError:
        raise
    except OSError as error:
        raise FeatspaceError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from error
    except Exception as error:  # of a pickle that is damaged any; their texts advise to run what is in it
        what = "is damaged, or holds more than tensors and numbers, which could run code"
        raise FeatspaceError(f"{path}: {what}; remove it, and make it or get it again") from error
