"""The process that starts a server, and whose ranks it is for: whether it lives, what it has done, and its end."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from harness.launching.warm import client
from harness.launching.warm.environment import ROOM, SINGLE_THREADED
from harness.text import one_line

MODULES = """
torch numpy.random gymnasium gymnasium.envs.classic_control rich.console
tensorboard.compat.proto.event_pb2 tensorboard.summary.writer.record_writer
harness.api harness.bench.arguments harness.policy.arguments harness.run.train
harness.algorithms.ppo harness.algorithms.a2c harness.algorithms.dqn harness.algorithms.sac harness.algorithms.td3
harness.envs.backends.cartpole harness.envs.backends.registered harness.envs.backends.sync
harness.envs.backends.workers harness.distributed.transports.mpi harness.distributed.transports.shared_memory
""".split()
"""What ranks import. Nothing of a user's: what is on the path of the present folder is imported by each rank anew."""
SEVERAL = ("mpi4py", "horovod.torch")
"""What ranks import that are not alone."""
HOROVODRUN = "horovod.runner.launch"
"""What horovodrun itself imports."""
ROOM_BYTES = 200_000
"""Of a rank's environment."""
ROOM_FOR_WORDS = 20_000
READY_SECONDS = 5.0
"""How long a server whose imports are done may take to answer: one that was stopped must not hold its owner up."""
LONGEST_ADDRESS = 100
"""Bytes of a Unix socket's path (Linux: 107)."""


class WarmServer:
    """A server, started at once; its imports take some seconds, in which its clients wait.

    It ends with this process or when it is closed, once the last process has ended that it has forked.
    """

    def __init__(self, env: Mapping[str, str], modules: Sequence[str] = MODULES) -> None:
        """Raises OSError where a socket or a process cannot be had."""
        self.folder = Path(private_folder())
        self.address = str(self.folder / "server")
        self.forked = 0
        self.refusals: Counter[str] = Counter()
        """Why processes had to start fresh, and how many."""
        self.ready = False
        self.unable = ""
        """Why it cannot serve, where it said so: another one could not either."""
        self.stamp = code_stamp()
        self._pending = b""
        self._lifeline, theirs = socket.socketpair()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs, listener:
            listener.bind(self.address)
            listener.listen(64)
            ends = (listener.fileno(), theirs.fileno())
            words = [sys.executable, str(Path(__file__).with_name("start_server.py")), *map(str, ends), *modules]
            room = {f"{ROOM}_{number}": "x" * (ROOM_BYTES // 2) for number in range(2)}
            with open(self.folder / "log", "wb") as log:
                self.process = subprocess.Popen(
                    [*words, " " * ROOM_FOR_WORDS], env={**env, **SINGLE_THREADED, **room}, pass_fds=ends,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip

    @property
    def lives(self) -> bool:
        return self.process.poll() is None

    @property
    def is_current(self) -> bool:
        """Whether what it has imported is what a fresh process would import now."""
        return self.stamp == code_stamp()

    def listen(self) -> None:
        """Notes what it has told of itself since the last call."""
        with suppress(OSError):
            while piece := self._lifeline.recv(1 << 16, socket.MSG_DONTWAIT):
                self._pending += piece
        *lines, self._pending = self._pending.split(b"\n")
        for line in lines:
            kind, _, reason = line.decode().partition(": ")
            self.ready |= kind in ("ready", "forked")
            self.forked += kind == "forked"
            if kind == "fresh":
                self.refusals[reason] += 1
            if kind == "cannot serve":
                self.unable = line.decode()

    def last_words(self) -> str:
        """Why it died, in parentheses, as far as it said."""
        if self.unable:
            return f" ({self.unable})"
        with suppress(OSError):
            lines = (self.folder / "log").read_text(errors="replace").strip().splitlines()
            return f" ({one_line(lines[-1], 200)})" if lines else ""
        return ""

    def fork(
        self, command: Sequence[str], env: Mapping[str, str], cwd: Path, output: IO[bytes], noted: bool
    ) -> ForkedProcess | None:
        """`command` as a process that outlives this one, with `output` for both of its streams; None where it has to
        start fresh. `noted`: its output ends with its exit code where that is not 0."""
        self.listen()
        seconds = READY_SECONDS if self.ready else client.ANSWER_SECONDS
        asked = client.request(command[1:], env, cwd, outlives=True, noted=noted)
        with open(os.devnull, "rb") as nothing:
            streams = [nothing.fileno(), output.fileno(), output.fileno()]
            answer = client.ask(self.address, asked, streams, seconds)
        return None if answer is None else ForkedProcess(*answer)

    def close(self) -> None:
        """It takes no more clients. What it has forked goes on."""
        self.listen()
        if not self.ready:
            self.process.terminate()
        with suppress(OSError):
            self._lifeline.shutdown(socket.SHUT_WR)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(1.0)
        self.listen()
        self._lifeline.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class ForkedProcess:
    """A process that a server has forked for this one."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid, self._connection = pid, connection
        self._code: int | None = None
        connection.setblocking(False)

    def fileno(self) -> int:
        """Readable once it has ended."""
        return self._connection.fileno()

    def poll(self) -> int | None:
        """Its exit code, -9 for signal 9; None while it runs. 1 where it ended after its server did."""
        if self._code is None:
            try:
                status = self._connection.recv(4)
            except BlockingIOError:
                return None
            except OSError:
                status = b""
            code = client.exit_code(status)
            self._code = 1 if code is None else code
            self._connection.close()
        return self._code


def private_folder() -> str:
    """A new folder that only this user may enter, by a path that fits into a socket's address."""
    folder = tempfile.mkdtemp(prefix="harness-")
    if len(os.fsencode(folder)) > LONGEST_ADDRESS - len("/server"):
        os.rmdir(folder)
        folder = tempfile.mkdtemp(prefix="harness-", dir="/tmp")
    return folder


def code_stamp() -> tuple[Any, ...]:
    """Changes with the sources of this package, and with whatever is installed or removed beside it."""
    package = Path(__file__).resolve().parents[2]
    found: list[Any] = []
    for folder in sys.path:
        if folder.endswith("-packages"):
            with suppress(OSError):
                found.append((folder, os.stat(folder).st_mtime_ns))
    waiting = [str(package)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting += [] if entry.name == "__pycache__" else [entry.path]
                elif entry.name.endswith(".py"):
                    status = entry.stat()
                    found.append((entry.path, status.st_mtime_ns, status.st_size))
    return tuple(sorted(found))
