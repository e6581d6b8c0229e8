"""Reaching the processes of a run on other hosts: by the means that started them there, ssh or Slurm's srun.

What runs there is the source of processes.py, sent along: nothing but a Python is expected of the other host.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.cluster.hosts import slurm_hosts
from harness.cluster.slots import names_this_host
from harness.launching import processes

CONNECT_SECONDS = 5


def is_here(name: str) -> bool:
    """Whether `name` is this host: one of its names, or a name of one of its addresses."""
    return names_this_host(name, os.environ.get("SLURMD_NODENAME") or socket.gethostname())


def others(names: Sequence[str]) -> list[str]:
    """Those of `names` that are not this host."""
    return [name for name in names if not is_here(name)]


def command_on(host: str, line: str, env: Mapping[str, str]) -> list[str]:
    """The command that runs the shell line `line` on `host`, never asking for a password.

    srun where `host` is of the Slurm allocation around us, else what Open MPI is set to use (OMPI_MCA_plm_rsh_agent),
    else ssh.
    """
    allocation = slurm_hosts(env) or []
    if host in [other.name for other in allocation] and shutil.which("srun", path=env.get("PATH")):
        srun = ["srun", "--overlap", "--quiet", "--input=none", "--nodes=1", "--ntasks=1", f"--nodelist={host}"]
        return [*srun, "sh", "-c", line]
    agent = env.get("OMPI_MCA_plm_rsh_agent", "ssh").split(":")[0].split() or ["ssh"]
    options = env.get("OMPI_MCA_plm_rsh_args", "").split()
    if Path(agent[0]).name == "ssh":
        options += ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_SECONDS}"]
    return [*agent, *options, host, line]


def program_line(*arguments: str) -> str:
    """A shell line that runs processes.py with `arguments` where there is no copy of it."""
    source = base64.b64encode(zlib.compress(Path(processes.__file__).read_bytes())).decode()
    code = f"import base64,zlib;exec(zlib.decompress(base64.b64decode('{source}')))"
    return shlex.join([sys.executable, "-c", code, *arguments])


def on_each(
    requests: Mapping[str, Sequence[str]], env: Mapping[str, str], timeout: float
) -> dict[str, list[Any] | str]:
    """Runs processes.py with the arguments of each host, on all hosts at once: its answers, or why there is none."""
    pipe, deadline = subprocess.PIPE, time.monotonic() + timeout
    asked = {}
    for host, arguments in requests.items():
        command = command_on(host, program_line(*arguments), env)
        asked[host] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, env=env)
    return {host: _answer(process, deadline) for host, process in asked.items()}


def _answer(process: subprocess.Popen[str], deadline: float) -> list[Any] | str:
    try:
        out, err = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "no answer in time"
    try:
        return list(json.loads(out.splitlines()[-1]))
    except (json.JSONDecodeError, IndexError):
        return (err.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
