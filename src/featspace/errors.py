"""Failures that a user can mend: one line that says what, where and what to do."""

from __future__ import annotations


class FeatspaceError(Exception):
    """A failure at run time (a bad file, missing weights, no space); the command exits with status 1."""

    exit_status = 1


class UsageError(FeatspaceError):
    """A wrong argument or parameter; the command exits with status 2."""

    exit_status = 2
