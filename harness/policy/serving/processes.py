"""Workers as their parent has them: processes, each with a socket that carries messages, connections and models."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from harness.policy.serving.connection import Limits


@dataclass
class Process:
    """A worker as its parent sees it."""

    process: subprocess.Popen
    socket: socket.socket
    started: float
    given: int = 0
    """Connections."""
    counts: dict[str, Any] = field(default_factory=dict)

    @property
    def open(self) -> int:
        return self.given - self.counts.get("closed", 0)

    @property
    def version(self) -> int:
        return self.counts.get("version", 0)


def start(place: int, limits: Limits, gpus: tuple[int, ...]) -> Process:
    """On a core of its own, as far as there are any; or with one of the GPUs."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    cores = sorted(os.sched_getaffinity(0))
    setup = {
        "limits": asdict(limits),
        "core": None if gpus else cores[place % len(cores)],
        "gpu": gpus[place % len(gpus)] if gpus else None,
    }
    command = [sys.executable, "-m", "harness.policy.serving.worker", str(theirs.fileno()), json.dumps(setup)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=env, stdin=subprocess.DEVNULL)
    theirs.close()
    ours.setblocking(False)
    return Process(process, ours, time.monotonic())


def give(worker: Process, model: bytes, version: int) -> None:
    """Hands it the model, as a file in memory that it reads in its own time."""
    fd = os.memfd_create("policy")
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(model)
        socket.send_fds(worker.socket, [json.dumps({"policy": version}).encode()], [fd])
    except OSError:  # it is about to be replaced, and its heir gets it
        pass
    finally:
        os.close(fd)


def tell(worker: Process, message: dict[str, Any]) -> None:
    try:
        worker.socket.send(json.dumps(message).encode())
    except OSError:
        pass
