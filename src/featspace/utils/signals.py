"""A run that is told to end: it cleans up as after Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What schedulers, `kill` and a closed terminal send; Windows has not all of them."""


class Ended(SystemExit):
    """A signal ended the run. Its code is 128 and the signal's number, as a shell reports it."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.name, self.status = signal.Signals(number).name, 128 + number


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within it SIGNALS raise Ended, so that what is half-written is removed, and what is finished is kept.

    One that is ignored, as under nohup, stays so. The first that comes is the last that is heeded: none cuts off the
    cleaning up.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        for each in heeded:
            signal.signal(each, signal.SIG_IGN)
        raise Ended(number)

    heeded = []
    if threading.current_thread() is threading.main_thread():  # no other can set handlers
        heeded = [each for each in SIGNALS if signal.getsignal(each) == signal.SIG_DFL]
    for each in heeded:
        signal.signal(each, end)
    try:
        yield
    finally:
        for each in heeded:
            signal.signal(each, signal.SIG_DFL)


@contextmanager
def signals_wait() -> Iterator[None]:
    """Within it SIGNALS and Ctrl-C are only noted; what the first of them raises is raised at its end.

    For native code that calls Python: an exception out of such a call may be another's by the time it comes back, or
    abort the process.
    """
    came: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {each: signal.getsignal(each) for each in (*SIGNALS, signal.SIGINT)}
    handlers = {each: handler for each, handler in before.items() if callable(handler)}
    try:
        for each in handlers:
            signal.signal(each, lambda number, _frame: came.append(number))
        yield
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
        if came:
            handlers[came[0]](came[0], None)


def left_to_parent(_worker: int) -> None:
    """Of a process that reads for another, as `worker_init_fn` of a DataLoader: a signal is for the other to heed.

    A scheduler tells all processes of a job; did a reader end by it, that would be reported as a failure.
    """
    for each in (*SIGNALS, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
