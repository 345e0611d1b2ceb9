"""Commands in processes of their own, which are forked from one that has imported all they need."""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

FORKED = multiprocessing.get_context("forkserver")
MODULES = ("benchmark.run", "cli", "stages.decode", "stages.featinv.evaluate", "stages.featinv.train", "stages.layers")
FORKED.set_forkserver_preload(["pytest", *(f"featspace.{name}" for name in MODULES)])
OPERATIONS = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree")
"""Audit events of files and folders; os.replace is a renaming."""
NOT_PERMITTED = 77
PATIENCE = 120
"""Seconds that a condition may take on a machine with much else to do."""


@dataclass
class Fault:
    """What goes wrong in a process, by the number of its operation on files whose path begins with `within`."""

    within: str
    killed_at: int | None = None
    held_at: int | None = None
    """There it creates the file <within>.held, and waits for a signal."""
    full_at: int | None = None
    """From there on the disk is full."""
    is_read_only: bool = False
    """A disk that cannot be written is mounted at `within`; the status is NOT_PERMITTED if this process may not."""
    patches: dict[str, Any] = field(default_factory=dict)
    """Values by module and name, such as stages.featinv.evaluate.PART."""


def start(arguments: list[str], folder: Path, fault: Fault) -> BaseProcess:
    """Runs a command in `folder`; <within>.log gets what it prints, <within>.count the number of its operations."""
    process = FORKED.Process(target=_run, args=(arguments, folder, fault))
    process.start()
    return process


def run(arguments: list[str], folder: Path, fault: Fault) -> tuple[int | None, list[str]]:
    """The exit status, negative after a signal, and the lines of `start`'s log."""
    process = start(arguments, folder, fault)
    return ended(process, fault)


def ended(process: BaseProcess, fault: Fault) -> tuple[int | None, list[str]]:
    process.join(PATIENCE)
    assert not process.is_alive()
    return process.exitcode, Path(f"{fault.within}.log").read_text().replace("\r", "\n").splitlines()


def operations(fault: Fault) -> int:
    return int(Path(f"{fault.within}.count").read_text())


def held(process: BaseProcess, fault: Fault) -> None:
    """Waits until the process waits."""
    await_that(lambda: Path(f"{fault.within}.held").exists() or not process.is_alive())
    assert process.is_alive(), Path(f"{fault.within}.log").read_text()


def await_that(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def _run(arguments: list[str], folder: Path, fault: Fault) -> None:
    import torch

    from featspace.cli import main

    log = os.open(f"{fault.within}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.chdir(folder)
    torch.set_num_threads(1)
    for name, value in fault.patches.items():
        module, _, attribute = f"featspace.{name}".rpartition(".")
        setattr(import_module(module), attribute, value)
    count = 0

    def at_operation(event: str, given: tuple) -> None:
        nonlocal count
        if event not in OPERATIONS or not any(_path(part).startswith(f"{fault.within}/") for part in given[:2]):
            return
        count += 1
        if count == fault.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.full_at and count >= fault.full_at and event == "open" and given[2] & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if count == fault.held_at:
            os.close(os.open(f"{fault.within}.held", os.O_CREAT))
            while True:
                time.sleep(0.005)

    sys.addaudithook(at_operation)
    if fault.is_read_only and not _mounted(fault.within):
        raise SystemExit(NOT_PERMITTED)
    try:
        main(arguments)
    finally:
        sys.stderr.flush()
        Path(f"{fault.within}.count").write_text(str(count))


def _mounted(folder: str) -> bool:
    """Mounts an empty read-only disk that this process alone sees."""
    libc = ctypes.CDLL(None)
    if libc.unshare(0x20000):  # CLONE_NEWNS
        return False
    libc.mount(None, b"/", None, 0x44000, None)  # MS_REC and MS_PRIVATE
    return libc.mount(b"none", folder.encode(), b"tmpfs", 1, None) == 0  # MS_RDONLY


def _path(part: Any) -> str:
    return os.fsdecode(part) if isinstance(part, str | bytes | os.PathLike) else ""
