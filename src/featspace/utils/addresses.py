"""Addresses that files are fetched from: over TLS, but for those of this machine."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from featspace.utils.errors import FeatspaceError


def check_address(url: str) -> None:
    """Raises FeatspaceError for an address that is asked without encryption, and is not this machine's own."""
    parts = urlsplit(url)
    if parts.scheme == "http" and not _is_own(parts.hostname or ""):
        raise FeatspaceError(f"{url.partition('?')[0]}: is not encrypted; name an address that begins with https://")


def _is_own(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
