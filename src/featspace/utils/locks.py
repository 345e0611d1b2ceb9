"""One process at a time: who makes something that lies at a path holds a lock beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from featspace.utils.errors import UsageError
from featspace.utils.files import remove_partials, require_writable


@contextmanager
def alone(path: Path, wait: bool = False) -> Iterator[None]:
    """Holds the lock of what is made at `path`; it ends with the process, however that ends.

    What a killed process left half-written of `path`, or of its unfinished folder, is removed. If another process holds
    the lock, waits for that to end, or without `wait` raises UsageError at once. Raises FeatspaceError if the place
    cannot be written.
    """
    require_writable(path)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise UsageError(f"{path}: another run is making it; wait for it to end, or name another path") from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # of what is made, not of its lock
    try:
        for own in (path, path.with_name(f"{path.name}.unfinished")):
            remove_partials(own)
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # whoever waits for it with the file open takes a new one
        lock.release()
