"""Published weights: found, downloaded and verified, and read where their libraries cache them, without a copy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from featspace.hub.connection import encrypted
from featspace.hub.lock import LOCK, PACKAGE, File, Pin, read_lock, repository_cache
from featspace.hub.manifest import INDEX, PICKLES, stray_parts
from featspace.hub.sources import Source, source_of
from featspace.utils.errors import FeatspaceError, one_line
from featspace.utils.files import is_full, no_space, sha256
from featspace.utils.locks import alone
from featspace.utils.names import check_path


def obtain(network: str, root: Path = Path()) -> Path:
    """The folder with the files of a published network, verified; what is missing is downloaded, or made from the
    Python package that has it.

    It is the pinned revision where the lock in `root` pins it; otherwise the one that is in the cache, so that a
    network that was used once is the same ever after and needs no connection; otherwise the newest.
    Raises UsageError for an unknown network, FeatspaceError as `download` does.
    """
    pin = read_lock(root).get(network)
    if package := _package(network):
        return package.folder(network, package.verify(network, package.find_pin(network, pin)))
    if pin is None:
        source = source_of(network)
        pin = _cached(source) or find_pin(network, None)
        if pin.revision:
            head = _head(source)
            head.parent.mkdir(parents=True, exist_ok=True)
            head.write_text(pin.revision)
    return download(network, find_pin(network, pin)).folder


def find_pin(network: str, pin: Pin | None) -> Pin:
    """The pin, its files looked up where it has none: those of its revision, without a pin those of the newest.

    Raises UsageError for an unknown network, FeatspaceError if the hub has no such network or is out of reach, or the
    Python package is not installed or of another version.
    """
    if package := _package(network):
        return package.find_pin(network, pin)
    if pin and pin.files:
        return pin
    source = source_of(network)
    revision = pin.revision if pin else None
    with _explained(network, source.repository, revision, source.page):
        if source.is_address:
            sizes = {name: get_hf_file_metadata(_url(source, name), token=False).size for name in source.files}
            files = {name: File(bytes=size or 0, sha256=_digest_in(name)) for name, size in sizes.items()}
        else:
            info = HfApi().model_info(source.repository, revision=revision, files_metadata=True)
            revision = _checked(network, info.sha or "")
            listed = {file.rfilename: file for file in info.siblings or []}
            chosen, absent = _choose(source, list(listed))
            if absent:
                pickled = any(Path(name).suffix in PICKLES for name in listed)
                why = "; what it has is a pickle, which can run code when it is loaded" if pickled else ""
                raise FeatspaceError(f"{network}: {source.repository} has no {absent[0]}{why}; name another network")
            files = {
                _checked(network, name): File(
                    bytes=listed[name].size or 0, sha256=lfs.sha256 if (lfs := listed[name].lfs) else ""
                )
                for name in chosen
            }
    return Pin(repository=source.repository, revision=revision, license=source.page, files=files)


def download(network: str, pin: Pin) -> Pin:
    """Downloads what is missing and verifies every file; returns the pin with the full SHA-256 of each.

    An interrupted download goes on where it stopped, the next time too. Raises FeatspaceError if a file is altered,
    is not what is pinned, is gated, or cannot be had; a file that differs is not left in the cache.
    """
    if package := _package(network):
        return package.verify(network, pin)
    files = {}
    with _explained(network, pin.repository, pin.revision, pin.license):
        for name, file in pin.files.items():
            path = pin.folder / name
            if not path.is_file():
                _download(network, pin, name)
            digest = sha256(path)
            if not digest.startswith(file.sha256):
                altered = f"the file was altered or cut off (its SHA-256 is not the one of {network})"
                raise FeatspaceError(f"{path.resolve()}: {altered}; remove it, and it is fetched again")
            files[name] = File(bytes=path.stat().st_size, sha256=digest)
    if stray := stray_parts(pin.folder / name for name in files if name.endswith(INDEX)):
        raise FeatspaceError(*stray)
    return pin.model_copy(update={"files": files})


def _download(network: str, pin: Pin, name: str) -> None:
    file, headers = pin.files[name], {"Accept-Encoding": "identity"}  # what is compressed cannot be resumed
    if pin.revision is None:
        url, path = _url(pin, name), pin.folder / name
    else:
        url = hf_hub_url(pin.repository, name, revision=pin.revision)
        published = get_hf_file_metadata(url)
        if published.commit_hash != pin.revision:
            given = f"{url} is of revision {published.commit_hash}, not of the pinned one"
            raise FeatspaceError(f"{network}: {given}; check HF_ENDPOINT")
        if published.etag is None:
            raise FeatspaceError(f"{network}: {url} has no ETag, which the cache names files by; check HF_ENDPOINT")
        headers |= build_hf_headers()
        path = repository_cache(pin.repository) / "blobs" / _checked(network, published.etag)
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path, wait=True):  # of two processes the second finds what the first has got
        if not path.is_file():
            _append(network, url, path, file, headers, name)
    if pin.revision is not None:
        hf_hub_download(pin.repository, name, revision=pin.revision)  # links the snapshot's name to it


def _append(network: str, url: str, path: Path, file: File, headers: dict[str, str], name: str) -> None:
    """Downloads to `path` what it lacks: the hub's own download begins anew after an interruption, and torch.hub's too.

    Raises FeatspaceError for other bytes than pinned.
    """
    partial = path.with_name(f"{path.name}.incomplete")
    with partial.open("ab") as stream:
        if (start := stream.tell()) > file.bytes:  # of something else
            start = stream.truncate(0)
        size = file.bytes or None
        http_get(url, stream, resume_size=start, headers=headers, expected_size=size, displayed_filename=name)
    if not (digest := sha256(partial)).startswith(file.sha256):
        partial.unlink()
        differs = f"its SHA-256 begins with {digest[:8]}, the pinned one with {file.sha256[:8]}"
        raise FeatspaceError(f"{network}: {url} is not what is pinned ({differs}); it was not kept")
    partial.replace(path)


def _checked(network: str, name: str) -> str:
    """What a hub says that files are to be called. Raises FeatspaceError for what would lead out of the cache."""
    try:
        return check_path(name)
    except ValueError as error:
        named = f"the hub calls a file {one_line(repr(name), 80)}, as none can be called ({error})"
        raise FeatspaceError(f"{network}: {named}; check HF_ENDPOINT") from None


def _cached(source: Source) -> Pin | None:
    """What the cache holds as the newest revision, if it is all there. Only published sums are known of it."""
    revision = None
    if not source.is_address:
        if not _head(source).is_file():
            return None
        revision = _head(source).read_text().strip()
    pin = Pin(repository=source.repository, revision=revision, license=source.page, files={})
    names = [path.relative_to(pin.folder).as_posix() for path in pin.folder.rglob("*") if path.is_file()]
    chosen, absent = _choose(source, names)
    if absent:
        return None
    sums = {name: _digest_in(name) if revision is None else "" for name in chosen}
    files = {name: File(bytes=(pin.folder / name).stat().st_size, sha256=sums[name]) for name in chosen}
    return pin.model_copy(update={"files": files})


def _choose(source: Source, names: list[str]) -> tuple[list[str], list[str]]:
    """Which of the names belong to the source, and which that must be there are absent."""
    matching = [name for name in names if any(fnmatchcase(name, pattern) for pattern in source.files)]
    chosen = [name for name in sorted(matching) if name in source.files or Path(name).suffix not in PICKLES]
    return chosen, [name for name in source.files if "*" not in name and name not in chosen]


def _head(source: Source) -> Path:
    """Where the hub's cache says which revision it holds as the newest."""
    return repository_cache(source.repository) / "refs" / "main"


def _package(network: str) -> ModuleType | None:
    """What finds the network in a Python package, if it is such a one."""
    if not network.startswith(PACKAGE):
        return None
    from featspace.hub import package  # imports timm

    return package


def _url(source: Source | Pin, name: str) -> str:
    return f"{source.repository}/{name}"


def _digest_in(name: str) -> str:
    """What a file of PyTorch's says of its SHA-256 in its name."""
    digest = re.search(r"-([0-9a-f]{8,64})\.", name)
    return digest[1] if digest else ""


@contextmanager
def _explained(network: str, repository: str, revision: str | None, license: str) -> Iterator[None]:
    """Turns what the hub's client raises into a FeatspaceError of one line; what is not encrypted is not asked."""
    try:
        with encrypted():
            yield
    except FeatspaceError:
        raise
    except GatedRepoError as error:
        todo = f"accept its licence at {license}, then `hf auth login` or set HF_TOKEN"
        raise FeatspaceError(f"{network}: {repository} is gated; {todo}") from error
    except RevisionNotFoundError as error:
        raise FeatspaceError(f"{network}: {repository} has no revision {revision}; correct {LOCK}") from error
    except RemoteEntryNotFoundError as error:
        raise FeatspaceError(f"{network}: {one_line(error)}; correct {LOCK}") from error
    except OfflineModeIsEnabled as error:
        todo = "unset HF_HUB_OFFLINE, or name a local folder"
        raise FeatspaceError(f"{network}: not in the local cache, and HF_HUB_OFFLINE is set; {todo}") from error
    except (OSError, HTTPError, ValueError) as error:  # of the connection, of the disk, a malformed name
        if is_full(error):
            raise no_space(Path(getattr(error, "filename", None) or constants.HF_HUB_CACHE)) from error
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if isinstance(error, RepositoryNotFoundError) or status in (401, 403):  # the hub does not tell them apart
            todo = f"check the name; if it is private, accept its licence at {license} and `hf auth login`"
            raise FeatspaceError(f"{network}: {repository} does not exist or is not public; {todo}") from error
        missing = f"not all in the local cache, and not to be had ({one_line(error)})"
        todo = "check the name and the network connection, or name a local folder"
        raise FeatspaceError(f"{network}: {missing}; {todo}") from error
