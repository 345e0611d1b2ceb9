"""Files of `torch.save`: written whole or not at all, and read without running what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from featspace.utils.errors import FeatspaceError, memory_errors
from featspace.utils.files import atomic_file
from featspace.utils.signals import signals_wait


def write_checkpoint(saved: Any, path: Path) -> None:
    """Writes the tensors and plain values `saved` to the file `path`, which replaces what is there once it is whole.

    Signals wait until it is. Raises as `atomic_file` does.
    """
    # Opened here, a file's errors are the system's.
    with signals_wait(), atomic_file(path) as partial, open(partial, "wb") as file:
        torch.save(saved, file)  # noqa: TID251 - the only place


def read_checkpoint(path: Path, device: torch.device | str = "cpu", mmap: bool = False) -> Any:
    """The tensors and plain values of a file of `torch.save`; `mmap`: read from the disk as they are used.

    Such a file is a pickle, of which nothing but these is made. Signals wait until it is read. Raises FeatspaceError if
    it names anything else, is damaged, or cannot be read.
    """
    try:
        with signals_wait(), memory_errors():
            return torch.load(path, map_location=device, weights_only=True, mmap=mmap)  # noqa: TID251 - the only place
    except MemoryError:
        raise
    except OSError as error:
        raise FeatspaceError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from error
    except Exception as error:  # of a pickle that is damaged any; their texts advise to run what is in it
        what = "is damaged, or holds more than tensors and numbers, which could run code"
        raise FeatspaceError(f"{path}: {what}; remove it, and make it or get it again") from error
