"""What Kubernetes would be sent: its published schema allows it; resources and commands are the stages'."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kubernetes_api import serving
from toy_pipeline import PROJECT, toy

pytestmark = pytest.mark.slurm


def test_jobs_are_as_the_schema_says_and_build(tmp_path: Path) -> None:
    import kubernetes_validate

    folder = toy(tmp_path / "toy")
    shutil.copytree(PROJECT / "profiles", folder / "profiles")
    command = [sys.executable, "-m", "snakemake", "--profile", "profiles/kubernetes", "table"]
    command += ["--container-image", "registry/featspace", "--seconds-between-status-checks", "1"]
    command += ["--kubernetes-shared-persistent-volumes", f"featspace:{tmp_path}"]
    image = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with serving(tmp_path, image) as (api, config):
        env = image | {"KUBECONFIG": str(config), "PYTHONPATH": "profiles/kubernetes"}
        done = subprocess.run(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    logs = "".join(log.read_text() for log in (tmp_path / "pods").glob("*.log"))
    assert done.returncode == 0, done.stdout + logs
    assert (folder / "figures/table.csv").read_text() == "  clip: 2\nclipvit\n  vit: 3\nclipvit\n"

    pods = {}
    assert len(api.jobs) == 4
    for job in api.jobs.values():
        for version in ("1.27", kubernetes_validate.latest_version()):
            kubernetes_validate.validate({"apiVersion": "batch/v1", "kind": "Job", **job}, version, strict=True)
        pod = job["spec"]["template"]["spec"]
        stage = pod["containers"][0]["args"][1].split("--allowed-rules ")[1].split()[0]
        pods[stage.strip("'")] = pod
    assert set(pods) == {"targets", "decode@clip", "decode@vit", "table"}
    small, large = pods["table"], pods["decode@vit"]
    disk = {"ephemeral-storage": "4000M"}
    assert small["containers"][0]["resources"] == {
        "requests": {"cpu": "950m", "memory": "4000M", **disk},
        "limits": {"cpu": "1000m", "memory": "4000M", **disk},
    }
    assert large["containers"][0]["resources"] == {
        "requests": {"cpu": "1900m", "memory": "500M", "nvidia.com/gpu": "1", **disk},
        "limits": {"cpu": "2000m", "memory": "500M", "nvidia.com/gpu": "1", **disk},
    }
    assert [toleration["key"] for toleration in large["tolerations"]] == ["nvidia.com/gpu"]
    assert "tolerations" not in small
    for pod in pods.values():
        assert pod["containers"][0]["image"] == "registry/featspace"
        assert {"name": "featspace", "mountPath": str(tmp_path)} in pod["containers"][0]["volumeMounts"]
        assert {"name": "featspace", "persistentVolumeClaim": {"claimName": "featspace"}} in pod["volumes"]
