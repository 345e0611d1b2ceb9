"""The notebook, cell by cell, at tiny settings."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.usefixtures("offline")
def test_the_notebook_runs_from_its_first_cell_to_its_last(monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setattr(plt, "show", lambda: None)
    matplotlib.use("Agg")
    notebook = json.loads((EXAMPLES / "decode.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert sum("EVALUATIONS = 128" in cell for cell in cells) == 1
    names: dict = {}
    for cell in cells:
        exec(compile(cell.replace("EVALUATIONS = 128", "EVALUATIONS = 2"), "decode.ipynb", "exec"), names)
    assert {"photograph", "EfficientNet-Lite0", "small ViT"} == names["images"].keys()
    assert names["decoded"].distances.shape == (2,) and len(plt.get_fignums()) == 3
    plt.close("all")
