"""Snakemake's executor for Kubernetes, whose pods share a volume with the checkout.

As published it wants all files in object storage, where the stages' commands would not find them by their names.
"""

import shlex
from dataclasses import replace

from snakemake_interface_executor_plugins.jobs import JobExecutorInterface

try:
    from snakemake_executor_plugin_kubernetes import Executor as Published
    from snakemake_executor_plugin_kubernetes import ExecutorSettings
    from snakemake_executor_plugin_kubernetes import common_settings as published
except ModuleNotFoundError as error:
    install = ".uv/bin/uv pip install --python .venv --require-hashes --no-deps -r profiles/requirements.lock"
    raise SystemExit(f"kubernetes-shared: {error.name} is not installed; install the executors: {install}") from error

__all__ = ["Executor", "ExecutorSettings", "common_settings"]

common_settings = replace(
    published, implies_no_shared_fs=False, job_deploy_sources=False, auto_deploy_default_storage_provider=False
)


class Executor(Published):
    def get_job_exec_prefix(self, job: JobExecutorInterface) -> str:
        return f"cd {shlex.quote(str(self.workflow.workdir_init))}"
