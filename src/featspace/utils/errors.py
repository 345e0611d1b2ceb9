"""Failures that a user can mend: one line that says what, where and what to do."""

from __future__ import annotations

import difflib
import errno
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class FeatspaceError(Exception):
    """A failure at run time (a bad file, missing weights, no space); the command exits with status 1.

    Its arguments are its lines, one but for a list of files. What would break a line, such as a file name that has a
    line break, is shown as in Python (`escaped`).
    """

    exit_status = 1

    def __str__(self) -> str:
        return "\n".join(escaped(line) for line in self.args)


class UsageError(FeatspaceError):
    """A wrong argument or parameter; the command exits with status 2."""

    exit_status = 2


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the known names that are close to an unknown one, if any."""
    close = difflib.get_close_matches(name, list(known))
    return f"; did you mean {' or '.join(close)}?" if close else ""


def escaped(text: object) -> str:
    """A text with its line breaks and other control characters, and those that turn its direction or are not seen, as
    Python writes them in a string."""
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp") else char
        for char in str(text)
    )


def one_line(error: Exception | str, limit: int = 200) -> str:
    """An error's message (its class if it has none), or a text, without line breaks, cut at `limit` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory is short: PyTorch has an error of its own for a GPU, and a mere RuntimeError for the CPU."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator: can't allocate memory" in str(error)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Makes whatever says that memory is short a MemoryError, but for PyTorch's own error of a GPU."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        if not is_out_of_memory(error) or type(error).__name__ == "OutOfMemoryError":
            raise
        raise MemoryError(one_line(error)) from error


@contextmanager
def enough_memory(doing: str, remedy: str) -> Iterator[None]:
    """Where memory is short raises FeatspaceError that says while `doing` what, and what to do."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise FeatspaceError(f"out of memory {doing} ({one_line(error)}); {remedy}") from error


@contextmanager
def explained(source: str | Path) -> Iterator[None]:
    """Turns a library's failure to load `source` into a FeatspaceError of one line; one that is such a line already is
    made to begin with `source`. Raises MemoryError where memory is short."""
    try:
        with memory_errors():
            yield
    except FeatspaceError as error:
        if str(error.args[0]).startswith(str(source)):
            raise
        raise type(error)(f"{source}: {error.args[0]}", *error.args[1:]) from error
    except MemoryError:
        raise
    except OSError as error:
        raise FeatspaceError(f"{source}: cannot be read ({one_line(error)}); get it again") from error
    except Exception as error:  # a library raises any class when configuration and weights do not fit
        reason = f"configuration and weights do not fit or are damaged ({one_line(error)})"
        raise FeatspaceError(f"{source}: {reason}; get them again") from error
