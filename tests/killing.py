"""Runs of functions in processes of their own that are really killed: after a while, or before a file operation."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

FORKS = multiprocessing.get_context("forkserver")  # its processes start at once, and where no thread has been
FORKS.set_forkserver_preload(["pytest", "featspace.cli", "featspace.stages.decode", "pyarrow.parquet"])
CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir"}


def started(function: Callable[..., None], *args: Any, operation: int = 0) -> Any:
    """A process that runs a function of a module, and is killed just before its file operation of that number."""
    process = FORKS.Process(target=_limited, args=(operation, function, *args))
    process.start()
    return process


def was_killed(process: Any, seconds: float | None = None) -> bool:
    """Waits for its end, and kills it after `seconds`; the function must not fail."""
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def _limited(operation: int, function: Callable[..., None], *args: Any) -> None:
    left = operation

    def count(event: str, given: tuple) -> None:
        nonlocal left
        writes = event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in CHANGES:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    if operation:
        sys.addaudithook(count)
    function(*args)
