"""Stands ready with all imports done, and forks itself into what its clients ask for.

    python start_server.py LISTENER LIFELINE MODULE…      # with room for their environments: see owner.py

Every process that it makes is a fresh one: nothing has run before the fork but imports (no tensor, no thread, no MPI,
no generator drawn from), and from then on it has the client's arguments, environment, directory, cores, limits and
streams. LISTENER and LIFELINE are sockets that it was given: where clients ask, and where its owner hears of it. When
the owner is gone it takes no more clients, and ends with the last process that it has forked.
"""

from __future__ import annotations

import gc
import importlib
import marshal
import os
import select
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from harness.cluster.slots import rank_slot, share_of_cores
from harness.launching.warm.child import become, shown_by_kernel, shown_memory, tell_end_itself, threads_wanted
from harness.launching.warm.client import REFUSED, network
from harness.launching.warm.environment import ROOM, SINGLE_THREADED, read_at_import
from harness.launching.warm.program import Program, read_program, shadowed

MOST_CHILDREN = 500
"""Processes at once, of which each has a connection; `select` knows 1,024."""
CLIENT_SECONDS = 5.0
"""How long a client that has connected may take to say what it wants."""


@dataclass
class Child:
    """A process that was forked, and who waits for it."""

    client: socket.socket
    outlives: bool
    """Whether it goes on when its client is gone."""
    noted: int | None
    """A copy of its standard error, where that is told how it ended."""


class Server:
    """`before`: the environment before the imports, which add to it. `path`: sys.path of what it forks."""

    def __init__(
        self, listener: socket.socket, lifeline: socket.socket, before: dict[str, str], path: list[str]
    ) -> None:
        self.listener, self.lifeline, self.path = listener, lifeline, path
        self.pid = os.getpid()
        own = {*before, *SINGLE_THREADED}
        self.added = {name: value for name, value in os.environ.items() if name not in own}
        self.before, self.at_import = before, read_at_import(before)
        self.cwd = os.getcwd()
        self.children: dict[int, Child] = {}
        self.owned = True
        self.wake, self.woken = socket.socketpair()
        for end in (self.wake, self.woken):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.woken.fileno())

    def serve(self) -> None:
        """Until the owner is gone and the last child has ended."""
        while self.owned or self.children:
            own = [self.listener, self.lifeline] if self.owned else []
            clients = [child.client for child in self.children.values() if child.client.fileno() >= 0]
            ready, _, _ = select.select([self.wake, *own, *clients], [], [])
            if self.wake in ready:
                self.wake.recv(4096)
            self.reap()
            for pid, child in list(self.children.items()):
                if child.client in ready:
                    self.lose_client(pid, child)
            if self.lifeline in ready:  # it says nothing: its owner is gone, or needs no more processes
                self.owned = False
                self.listener.close()
            elif self.listener in ready:
                self.accept()

    def tell(self, line: str) -> None:
        """A line for the owner."""
        with suppress(OSError):
            self.lifeline.send(line.encode() + b"\n", socket.MSG_DONTWAIT)

    def accept(self) -> None:
        client, _ = self.listener.accept()
        client.settimeout(CLIENT_SECONDS)
        descriptors: list[int] = []
        try:
            head, descriptors, _, _ = socket.recv_fds(client, 4, 3)
            message = b""
            while len(message) < int.from_bytes(head, "little"):
                piece = client.recv(1 << 20)
                if not piece:
                    raise EOFError
                message += piece
            self.answer(marshal.loads(message), client, descriptors)
        except (OSError, EOFError, ValueError, KeyError, TypeError):  # it is gone, or no client of ours
            with suppress(OSError):
                client.sendall(REFUSED)
            client.close()
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def answer(self, asked: dict[str, Any], client: socket.socket, descriptors: list[int]) -> None:
        program = read_program(asked["words"])
        reason = "it is no module or script of this Python" if program is None else self.refusal(asked, program)
        if program is None or reason is not None or len(descriptors) < 3:
            self.tell(f"fresh: {reason}")
            client.sendall(REFUSED)
            client.close()
            return
        if select.select([client], [], [], 0.0)[0]:  # it says nothing more: it left while it waited, and began fresh
            raise EOFError
        pid = os.fork()
        if pid == 0:
            self.become(asked, program, client, descriptors)  # does not return
        try:
            client.sendall(pid.to_bytes(4, "little"))
        except OSError:  # it has left since, and never heard of what was forked
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        self.tell("forked")
        noted = os.dup(descriptors[2]) if asked.get("noted") else None
        self.children[pid] = Child(client, asked.get("outlives", False), noted)

    def refusal(self, asked: dict[str, Any], program: Program) -> str | None:
        """Why it must be a fresh process: what is decided while libraries are loaded, or lies on another host."""
        environ: dict[str, str] = asked["environ"]
        theirs = read_at_import(environ)
        differing = sorted(n for n in {*theirs, *self.at_import} if theirs.get(n) != self.at_import.get(n))
        if differing:
            return f"another {', '.join(differing)} than when libraries were loaded"
        if len(self.children) >= MOST_CHILDREN:
            return f"the server has {MOST_CHILDREN} processes already"
        if asked["network"] != network():
            return "it is in another network"
        if any(len(content) > end - start for content, (start, end) in zip(shown_by_kernel(asked), shown_memory())):
            return "its environment is too large"
        if asked.get("path") is None:
            given = environ.get("PYTHONPATH", "")
            relative = given and not all(map(os.path.isabs, given.split(os.pathsep)))
            if given != self.before.get("PYTHONPATH", "") or relative and asked["cwd"] != self.cwd:
                return "another PYTHONPATH, or from another folder"
        cores = 1 if program.confined and confined_to_one(environ, asked["cores"]) else len(asked["cores"])
        if not program.sets_threads and threads_wanted(environ, cores) is None:
            return f"OMP_NUM_THREADS is not set, on {cores} cores"
        folder = program.folder(asked["cwd"])
        hidden = shadowed(folder) if folder is not None else None
        return f"{folder} has a module {hidden} of its own" if hidden else None

    def reap(self) -> None:
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            child = self.children.pop(pid, None)
            if child is None:
                continue
            if child.noted is not None:
                note_end(child.noted, status)
            with child.client, suppress(OSError):
                child.client.sendall(status.to_bytes(4, "little"))

    def lose_client(self, pid: int, child: Child) -> None:
        """It says nothing any more: it is gone, and what it stood for with it, unless that is to go on."""
        child.client.close()
        if not child.outlives:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def become(self, asked: dict[str, Any], program: Program, client: socket.socket, descriptors: list[int]) -> None:
        """In the child: the process that was asked for, to its end."""
        code = 1
        try:
            tell_end_itself(client, self.pid)  # not getppid(): it may be gone by now
            for each in (self.listener, self.lifeline, self.wake, self.woken):
                each.close()
            for other in self.children.values():
                other.client.close()
                if other.noted is not None:
                    os.close(other.noted)
            code = become(asked, program, descriptors, self.added, asked.get("path") or self.path)
        except BaseException:  # of our own making: what was run has its own way to tell
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)


def confined_to_one(environ: dict[str, str], cores: Sequence[int]) -> bool:
    """Whether a rank of this environment confines itself to one core."""
    slot = rank_slot(environ)
    return slot is not None and len(share_of_cores(list(cores), slot)) == 1


def note_end(descriptor: int, status: int) -> None:
    """As Horovod's launcher says it, for `harness/launching/outcome.py` to read, also after a restart of the owner."""
    code = os.waitstatus_to_exitcode(status)
    if code != 0:
        with suppress(OSError):
            os.write(descriptor, f"\nProcess 0 exit with status code {code if code > 0 else 128 - code}.\n".encode())
    os.close(descriptor)


def import_all(names: Sequence[str]) -> None:
    """What is not installed is left to those who need it."""
    for name in names:
        with suppress(ImportError):
            importlib.import_module(name)


def main(arguments: Sequence[str]) -> None:
    listener, lifeline = (socket.socket(fileno=int(number)) for number in arguments[:2])
    for name in [name for name in os.environ if name.startswith(ROOM)]:
        del os.environ[name]
    folder = os.path.dirname(listener.getsockname())
    before, path = dict(os.environ), sys.path[1:]
    import_all([name for name in arguments[2:] if name.strip()])  # the last only makes room
    sys.path[:] = path
    gc.collect()
    gc.freeze()  # or the collector writes into every page, and each child copies them
    server = Server(listener, lifeline, before, path)
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1 or threading.active_count() > 1:
        server.tell(f"cannot serve: {threads} threads before the fork, and a lock of theirs would stay locked")
        return
    server.tell("ready")
    server.serve()
    shutil.rmtree(folder, ignore_errors=True)  # its owner may be gone
