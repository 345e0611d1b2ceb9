"""The paper's fifteen target photographs, from the official implementation at one commit.

They are third-party photographs and no part of this project; `paper_photos.sha256` lists what may be used.
"""

from __future__ import annotations

import hashlib
import os
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import HTTPRedirectHandler, Request, build_opener

from huggingface_hub import constants

from featspace.utils.addresses import check_address
from featspace.utils.errors import FeatspaceError, UsageError, one_line
from featspace.utils.files import atomic_file, sha256, user_cache

REPOSITORY = "KimiakiShirahama/FeatureSpaceAnalysisByGuidedDiffusionModel"
COMMIT = "e919a8ac0822c6701ca1861bd5bf57637759ff6d"
URL = f"https://raw.githubusercontent.com/{REPOSITORY}/{COMMIT}"
SUMS = Path(__file__).with_suffix(".sha256")  # in the format of `sha256sum -c`, paths as in the repository
TIMEOUT = 30  # seconds without an answer


class _Encrypted(HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> Request | None:
        check_address(args[-1])  # where to
        return super().redirect_request(*args)


def fetch_photo(name: str) -> Path:
    """The local file of a photograph, named by its path below data/ in the repository; its SHA-256 is verified.

    Downloaded once, into `featspace/paper` of the user's cache ($XDG_CACHE_HOME, else ~/.cache). The environment
    variable FEATSPACE_PAPER_URL names another copy of the repository's files, such as file:///path/to/a/clone; one on
    another machine is asked over TLS alone.

    Raises UsageError, listing the photographs, if there is none of that name, and FeatspaceError if it is not in the
    cache and HF_HUB_OFFLINE is set, cannot be downloaded, or is not the published file.
    """
    source = f"paper:{name}"
    digests = {path: digest for digest, path in (line.split() for line in SUMS.read_text("utf-8").splitlines())}
    path = f"data/{name}"
    if path not in digests:
        known = ", ".join(known.removeprefix("data/") for known in digests)
        raise UsageError(f"{source}: not among the paper's photographs: {known}")
    file = user_cache() / "paper" / path
    if file.is_file() and sha256(file) == digests[path]:
        return file
    if constants.HF_HUB_OFFLINE:
        raise FeatspaceError(f"{source}: not at {file}, and HF_HUB_OFFLINE is set; unset it, or put the file there")
    url = f"{os.environ.get('FEATSPACE_PAPER_URL') or URL}/{quote(path)}"
    try:
        check_address(url)
        with build_opener(_Encrypted).open(url, timeout=TIMEOUT) as response:
            content = response.read()
    except (OSError, HTTPException, ValueError) as error:  # no connection or answer; cut short; not an address
        advice = f"check the network connection, or put the file at {file}"
        raise FeatspaceError(f"{source}: cannot be had from {url} ({one_line(error)}); {advice}") from error
    if hashlib.sha256(content).hexdigest() != digests[path]:
        raise FeatspaceError(f"{source}: {url} is not the published file (its SHA-256 differs); name another copy")
    with atomic_file(file) as partial:
        partial.write_bytes(content)
    return file
