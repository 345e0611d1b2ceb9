"""The same through S3, as moto serves it on a free port of this machine; credentials come from the environment."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest
import toy_published

from featspace.cli import main

pytestmark = pytest.mark.remotes

TOOLS = Path(__file__).parents[2] / ".venv-remotes/bin"
SECRET = {"AWS_ACCESS_KEY_ID": "a-key", "AWS_SECRET_ACCESS_KEY": "a-secret"}


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[str]:
    """Address of a server that has the bucket `results`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with open(tmp_path / "log", "wb") as log:
        server = subprocess.Popen([TOOLS / "moto_server", "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
    try:
        for _ in range(600):
            assert server.poll() is None, (tmp_path / "log").read_text()
            try:
                urllib.request.urlopen(urllib.request.Request(f"{url}/results", method="PUT"), timeout=10).close()
                break
            except OSError:  # not yet
                time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait()


def dvc(*words: str, **environment: str) -> tuple[int, str]:
    """Exit status and what is printed, with no credentials but those given."""
    outside = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    apart = {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(Path.cwd().parent)}
    done = subprocess.run(
        [TOOLS / "dvc", *words],
        env=outside | apart | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def test_a_reader_pulls_what_was_pushed_and_verifies_it(project, s3, tmp_path, monkeypatch, capsys):
    author, reader = toy_published.build(project, tmp_path / "author"), tmp_path / "reader"
    toy_published.publish(author)
    with chdir(author):
        assert dvc("remote", "add", "--default", "shared", "s3://results/toy")[0] == 0
        assert dvc("remote", "modify", "shared", "endpointurl", s3)[0] == 0
        toy_published.git("commit", "-qam", "Add a remote")
        status, printed = dvc("push", "--with-deps", "mini")
        assert status != 0 and "credentials" in printed
        status, printed = dvc("push", "--with-deps", "mini", **SECRET)
        assert status == 0, printed
    toy_published.git("clone", "-q", str(author), str(reader))
    monkeypatch.chdir(reader)
    # Credentials of one checkout, in a file that git leaves alone.
    for key, value in (("access_key_id", "a-key"), ("secret_access_key", "a-secret")):
        assert dvc("remote", "modify", "--local", "shared", key, value)[0] == 0
    assert subprocess.run(["git", "status", "--porcelain"], capture_output=True, check=True).stdout == b""
    status, printed = dvc("pull", "--with-deps", "mini")
    assert status == 0, printed
    main(["verify"])
    assert "All 12 outputs of mini that need no decoding agree with the 2 that do" in capsys.readouterr().out
    for folder in (author, reader):
        grep = subprocess.run(["git", "grep", "a-secret", "HEAD"], cwd=folder, capture_output=True)
        assert grep.returncode == 1
