"""Failures that a user can mend: one line that says what, where and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class FeatspaceError(Exception):
    """A failure at run time (a bad file, missing weights, no space); the command exits with status 1."""

    exit_status = 1


class UsageError(FeatspaceError):
    """A wrong argument or parameter; the command exits with status 2."""

    exit_status = 2


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the known names that are close to an unknown one, if any."""
    close = difflib.get_close_matches(name, list(known))
    return f"; did you mean {' or '.join(close)}?" if close else ""


def one_line(error: Exception | str, limit: int = 200) -> str:
    """An error's message (its class if it has none), or a text, without line breaks, cut at `limit` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


@contextmanager
def explained(source: str | Path) -> Iterator[None]:
    """Turns a library's failure to load `source` into a FeatspaceError of one line; one that is such a line already is
    made to begin with `source`."""
    try:
        yield
    except FeatspaceError as error:
        if str(error).startswith(str(source)):
            raise
        raise type(error)(f"{source}: {error}") from error
    except MemoryError:
        raise
    except OSError as error:
        raise FeatspaceError(f"{source}: cannot be read ({one_line(error)}); get it again") from error
    except Exception as error:  # a library raises any class when configuration and weights do not fit
        reason = f"configuration and weights do not fit or are damaged ({one_line(error)})"
        raise FeatspaceError(f"{source}: {reason}; get them again") from error
