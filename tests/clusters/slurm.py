"""A Slurm of one node on 127.0.0.1, whose daemons run as the caller and whose files are in one folder."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
GresTypes=gpu
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 Port={node} CPUs=4 RealMemory=16000 Gres=gpu:1
PartitionName=all Nodes=node Default=YES MaxTime=INFINITE
"""
"""The node is said to have four cores, 16 GB and a GPU, whatever the machine has."""


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def daemon(folder: Path, *command: str, env: dict[str, str]) -> Iterator[None]:
    """Runs one, which ends with the block, or else with this process; what it prints is `<name>.log`."""
    with (folder / f"{command[0]}.log").open("w") as log:
        process = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *command], env=env, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait(folder: Path, *command: str, env: dict[str, str], until: Callable[[str], bool]) -> None:
    """Until that is true of what a command prints; after a minute raises RuntimeError with what the daemons said."""
    for _ in range(120):
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if until(done.stdout):
            return
        time.sleep(0.5)
    logs = "".join(path.read_text() for path in sorted(folder.glob("*.log")))
    raise RuntimeError(f"{' '.join(command)}: {done.stdout}\n{logs}")


@contextmanager
def running() -> Iterator[dict[str, str]]:
    """Starts munged, slurmctld and slurmd; yields the environment that Slurm's commands need to find them."""
    host, user = socket.gethostname().split(".")[0], getpass.getuser()
    controller, node = free_ports(2)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="slurm-")))  # a socket's path must be short
        for name in ("state", "spool"):
            (folder / name).mkdir()
        conf, key = folder / "slurm.conf", folder / "munge.key"
        conf.write_text(CONFIGURATION.format(folder=folder, host=host, user=user, controller=controller, node=node))
        (folder / "gres.conf").write_text("NodeName=node Name=gpu File=/dev/null\n")
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        # The executor plugin hides SLURM_CONF from the srun of its jobs, which on a cluster is in its usual place.
        srun = folder / "bin/srun"
        srun.parent.mkdir()
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={conf} exec {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)
        env = os.environ | {"SLURM_CONF": str(conf), "PATH": f"{srun.parent}:{os.environ['PATH']}"}
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
        munge = [f"--{option}={folder}/munge.{name}" for option, name in files.items()]
        # By force, as none but this user may look into the folder.
        stack.enter_context(daemon(folder, "munged", "--foreground", "--force", *munge, env=env))
        wait(folder, "munge", "-n", munge[0], env=env, until=lambda out: out.startswith("MUNGE:"))
        stack.enter_context(daemon(folder, "slurmctld", "-D", env=env))
        stack.enter_context(daemon(folder, "slurmd", "-D", "-N", "node", env=env))
        wait(folder, "sinfo", "-h", "-o", "%T", env=env, until=lambda out: out == "idle\n")
        try:
            yield env
        finally:
            subprocess.run(["scancel", "--user", user], env=env, check=False)
            wait(folder, "squeue", "-h", env=env, until=lambda out: out == "")
