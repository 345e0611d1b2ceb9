"""Tables: stable bytes that are read back, and what bad files say."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest

from featspace.utils.errors import FeatspaceError
from featspace.utils.tables import read_table, write_json, write_table

COLUMNS = {"id": str, "sample": int, "cosine": float}


def test_numbers_have_six_digits_and_are_read_back(tmp_path):
    table = pd.DataFrame({"id": ["null", "007"], "sample": [0, 12], "cosine": [math.pi * 1e-9, math.nan]})
    write_table(table, tmp_path / "new" / "table.csv")
    assert (tmp_path / "new/table.csv").read_bytes() == b"id,sample,cosine\nnull,0,3.14159e-09\n007,12,\n"
    back = read_table(tmp_path / "new/table.csv", COLUMNS)
    assert back["id"].tolist() == ["null", "007"] and back["sample"].tolist() == [0, 12]
    assert back["cosine"][0] == 3.14159e-09 and math.isnan(back["cosine"][1])


def test_json_is_sorted_and_rounded(tmp_path):
    write_json({"b": {"z": 2 / 3, "a": 12}, "a": 123456789.0}, tmp_path / "m.json")
    text = (tmp_path / "m.json").read_text()
    assert text == '{\n  "a": 123457000.0,\n  "b": {\n    "a": 12,\n    "z": 0.666667\n  }\n}\n'
    assert json.loads(text)["b"] == {"a": 12, "z": 0.666667}


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "no such file"),
        (b"", "the file is empty"),
        (b"id,sample,cosine\n", "the table has no rows"),
        (b"id,sample\na,0\n", "no column cosine, only id, sample"),
        (b"id,sample,cosine\na,0,high\n", "not a table of id, sample, cosine"),
        (b"id,sample,cosine\na,,0.5\n", "not a table of id, sample, cosine"),
        (b"id,sample,cosine\na,0,0.5,1,2\nb,0\n", "sample"),
        (b"\xff\xfe\x00\x80", "not a table of id, sample, cosine"),
    ],
)
def test_a_bad_table_gives_one_line(tmp_path, content, message):
    path = tmp_path / "table.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FeatspaceError) as error:
        read_table(path, COLUMNS)
    line = str(error.value)
    assert line.startswith(f"{path}: ") and message in line and "\n" not in line


def test_a_folder_is_no_table(tmp_path):
    with pytest.raises(FeatspaceError, match="not a table of id"):
        read_table(tmp_path, COLUMNS)
