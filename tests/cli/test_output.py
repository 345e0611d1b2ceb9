"""What is printed, where a terminal or a file system knows fewer characters than a name has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from featspace.cli import main
from featspace.data.targets import read_targets

pytestmark = pytest.mark.usefixtures("offline")
MAIN = [sys.executable, "-c", "from featspace.cli import main; main()"]


@pytest.mark.parametrize(("name", "encoding"), [("写真 × −.jpg", "cp1252"), (os.fsdecode(b"caf\xe9.jpg"), "ascii")])
def test_a_name_that_cannot_be_printed_loses_nothing(project: Path, tmp_path: Path, name: str, encoding: str) -> None:
    shutil.copy("photo.jpg", tmp_path / name)
    out = tmp_path / name.removesuffix(".jpg")
    command = ["decode", str(tmp_path / name), "--encoder", "resnet", "--samples", "1", "--out", str(out)]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([*MAIN, *command], capture_output=True, env=environment)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr[-2000:]
    assert len(pd.read_csv(out / "decoded.csv")) == 1 and b"distance" in done.stdout
    failed = subprocess.run([*MAIN, *command], capture_output=True, env=environment)
    assert failed.returncode == 2 and b"Traceback" not in failed.stderr
    assert failed.stderr.count(b"\n") == 1 and b"the folder is not empty" in failed.stderr


def test_a_folder_of_photographs_whose_names_are_no_utf_8(project: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    shutil.copy("photo.jpg", tmp_path / "own" / os.fsdecode(b"caf\xe9.jpg"))
    text = Path("params.yaml").read_text().replace("skimage:coffee", str(tmp_path / "own"))
    Path("own.yaml").write_text(text)
    main(["targets", "--params", "own.yaml", "--out", str(tmp_path / "targets")])
    assert r"caf\udce9.jpg" in [target.source.rpartition("/")[2] for target in read_targets(tmp_path / "targets")]


def test_an_error_is_one_line_whatever_the_path(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = str(tmp_path / "out")
    for arguments, line in (
        (["decode", "no\nsuch.jpg", "--encoder", "resnet", "--out", out], r"no\nsuch.jpg: no such file"),
        (["decode", "photo.jpg", "--encoder", "resnet", "--out", out, "--fa\nst"], "No such option: --fa"),
        (["decode", "photo.jpg", "--encoder", "resnet", "--out", f"{out}/{'x' * 300}\ny"], r"\ny: file name too long"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.startswith("featspace: error:") and line in error
