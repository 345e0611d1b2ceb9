"""JSON of others: what Python cannot read is one error, of the class that readers expect."""

from __future__ import annotations

from pathlib import Path

import pytest

from featspace.encoders.encoder import load_encoder
from featspace.report.tables import read_tables
from featspace.utils.errors import FeatspaceError
from featspace.utils.texts import parse_json

DEEP = "[" * 200_000


def test_a_text_that_is_nested_too_deeply() -> None:
    assert parse_json('{"a": [1]}') == parse_json(b'{"a": [1]}') == {"a": [1]}
    for text in (DEEP, DEEP.replace("[", '{"a":'), "[", "", "NaN,"):
        with pytest.raises(ValueError):
            parse_json(text)


def test_readers_name_the_file(tmp_path: Path) -> None:
    for name in ("config.json", "metrics.json"):
        (tmp_path / name).write_text(DEEP)
    for read in (lambda: load_encoder(str(tmp_path)), lambda: read_tables(tmp_path)):
        with pytest.raises(FeatspaceError, match=r"\.json: cannot be read .*nested too deeply") as caught:
            read()
        assert str(caught.value).isprintable()
