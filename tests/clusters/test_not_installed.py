"""Without the executors, a line says how to install them."""

from __future__ import annotations

import subprocess
import sys

from toy_pipeline import PROJECT

IMPORT = """
import sys
sys.modules["snakemake_executor_plugin_kubernetes"] = None  # as if it were not there
import snakemake_executor_plugin_kubernetes_shared
"""


def test_the_executor_for_kubernetes_names_what_installs_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], cwd=PROJECT / "profiles/kubernetes", capture_output=True, text=True
    )
    (line,) = done.stderr.splitlines()
    install = ".uv/bin/uv pip install --python .venv --require-hashes --no-deps -r profiles/requirements.lock"
    assert done.returncode == 1 and line.startswith("kubernetes-shared: ") and install in line
    assert f"    {install} " in (PROJECT / "docs/clusters.md").read_text(encoding="utf-8")
