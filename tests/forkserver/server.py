"""Stands ready with all imports done, and forks itself into what its clients ask for.

Every process that it makes is a fresh one: nothing has run before the fork but imports (no tensor, no thread, no MPI,
no generator drawn from), and from then on it has the client's arguments, environment, directory, cores, limits and
streams. What is saved is two to six seconds of imports for each.

    python -m tests.forkserver.server ADDRESS PARENT_PID PADDING…
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import io
import marshal
import os
import random
import resource
import runpy
import select
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from tests.forkserver.client.sitecustomize import PADDING, network, read_at_import

MODULES = """
torch torch._dynamo torch.optim numpy.random gymnasium optuna optuna.storages sqlalchemy pydantic rich.live rich.table
torch.utils.tensorboard tensorboard.compat.proto.event_pb2 horovod.torch horovod.runner.launch mpi4py
harness.bench.arguments harness.api harness.run.train harness.run.supervisor harness.policy.policy
harness.bench.commands
search.run search.driver search.trials.preset_task search.commands.report
""".split()
STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
SECONDS_BETWEEN_LOOKS = 2.0
"""…at whether the process that this server is for still lives."""


def import_all() -> None:
    """What ranks, parents and drivers import. What is not installed is left to those who need it."""
    import importlib

    for name in MODULES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(f"fork server: without {name} ({error})", file=sys.stderr)


class Server:
    def __init__(self, address: str, parent: int, before: dict[str, str]) -> None:
        """`before`: the environment before the imports, which add to it."""
        self.address, self.parent = address, parent
        self.added = {name: value for name, value in os.environ.items() if name not in before}
        self.children: dict[int, socket.socket] = {}
        self.forked, self.stopping = 0, False
        self.refused: set[str] = set()
        """The names of what kept it from standing in."""
        self.at_import = read_at_import(before)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(address + ".new")
        self.listener.listen(64)
        self.wake, woken = socket.socketpair()
        self.wake.setblocking(False)
        woken.setblocking(False)
        self.woken = woken
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(woken.fileno())

    def serve(self) -> None:
        os.rename(self.address + ".new", self.address)  # clients find it when it can answer
        signal.signal(signal.SIGTERM, self.stop)
        while os.getppid() == self.parent and not self.stopping:
            watched = [self.listener, self.wake, *self.children.values()]
            ready, _, _ = select.select(watched, [], [], SECONDS_BETWEEN_LOOKS)
            if self.wake in ready:
                self.wake.recv(4096)
            self.reap()
            for pid, client in list(self.children.items()):
                if client in ready:  # it says nothing any more: it is gone, and what it stood for with it
                    self.end(pid)
            if self.listener in ready:
                self.accept()
        for pid in list(self.children):
            self.end(pid)
        self.tell()

    def stop(self, *_: object) -> None:
        self.stopping = True

    def tell(self) -> None:
        """How much it was used, beside its address: that it refused all would be noticed by slowness alone."""
        fresh = f"; fresh where these differed: {', '.join(sorted(self.refused))}" if self.refused else ""
        Path(self.address + ".told").write_text(f"{self.forked} processes forked{fresh}")

    def accept(self) -> None:
        client, _ = self.listener.accept()
        try:
            head, descriptors, _, _ = socket.recv_fds(client, 4, 3)
            message = b""
            while len(message) < int.from_bytes(head, "little"):
                message += client.recv(1 << 20)
            asked = marshal.loads(message)
        except (OSError, EOFError, ValueError):
            client.close()
            return
        if len(descriptors) < 3 or not self.can_become(asked):
            client.sendall(b"no!!")
        else:
            pid = os.fork()
            if pid == 0:
                self.become(asked, client, descriptors)  # does not return
            self.forked += 1
            client.sendall(pid.to_bytes(4, "little"))
            self.children[pid] = client
        for descriptor in descriptors:
            os.close(descriptor)
        if client not in self.children.values():
            client.close()

    def can_become(self, asked: dict[str, Any]) -> bool:
        """Not what must be decided while libraries are loaded, nor what lies on another host."""
        room = all(len(content) <= end - start for content, (start, end) in zip(shown_by_kernel(asked), shown_memory()))
        theirs = read_at_import(asked["environ"])
        differing = {name for name in {*theirs, *self.at_import} if theirs.get(name) != self.at_import.get(name)}
        differing |= ({"another network"} if asked["network"] != network() else set()) | (set() if room else {"room"})
        self.refused |= differing
        return not differing

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            client = self.children.pop(pid, None)
            if client is not None:
                with client:
                    try:
                        client.sendall(status.to_bytes(4, "little"))
                    except OSError:
                        pass

    def end(self, pid: int) -> None:
        client = self.children.pop(pid)
        client.close()
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def become(self, asked: dict[str, Any], client: socket.socket, descriptors: list[int]) -> None:
        """In the child: the process that was asked for, to its end."""
        code = 1
        try:
            for other in (self.listener, self.wake, self.woken, client, *self.children.values()):
                other.close()
            code = run_as(asked, descriptors, self.added)
        except BaseException:  # of our own making: what was run has its own way to tell
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)


def run_as(asked: dict[str, Any], descriptors: list[int], added: dict[str, str]) -> int:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in asked["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    os.setsid()
    for descriptor, target in zip(descriptors, range(3)):
        os.dup2(descriptor, target)
    for descriptor in descriptors:
        if descriptor > 2:
            os.close(descriptor)
    os.chdir(asked["cwd"])
    os.umask(asked["umask"])
    os.sched_setaffinity(0, asked["cores"])
    for kind, limits in asked["limits"]:
        resource.setrlimit(kind, limits)
    take_environment(asked)
    for name, value in added.items():
        os.environ.setdefault(name, value)
    open_streams()
    if "OMP_NUM_THREADS" not in os.environ:
        sys.modules["torch"].set_num_threads(len(asked["cores"]))  # type: ignore[attr-defined]
    random.seed()
    sys.modules["numpy"].random.seed()  # type: ignore[attr-defined]
    return run(asked["words"], asked["path"])


def shown_by_kernel(asked: dict[str, Any]) -> tuple[bytes, bytes]:
    """/proc/PID/cmdline and environ of the process that is asked for."""
    words = [sys.executable, *asked["words"]]
    variables = [f"{name}={value}" for name, value in asked["environ"].items()]
    return tuple(b"".join(os.fsencode(text) + b"\0" for text in texts) for texts in (words, variables))  # type: ignore


def shown_memory() -> tuple[tuple[int, int], tuple[int, int]]:
    """Where this process's arguments and environment lie, as it was given them: what the kernel shows of it."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return (int(fields[45]), int(fields[46])), (int(fields[47]), int(fields[48]))


def take_environment(asked: dict[str, Any]) -> None:
    """Also where others look for it: the project finds the processes of a run by their environments in /proc."""
    os.environ.clear()
    os.environ.update(asked["environ"])
    for content, (start, end) in zip(shown_by_kernel(asked), shown_memory()):
        ctypes.memmove(start, content.ljust(end - start, b"\0"), end - start)


def open_streams() -> None:
    """sys.stdin and the others on the descriptors that are there now, as Python opened them here, for the locale."""
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    for number, (name, mode) in enumerate(STREAMS):
        before = getattr(sys, name)
        raw = io.FileIO(number, mode, closefd=False)
        whole = unbuffered and mode == "w"
        buffer: Any = raw if whole else io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
        lines = not whole and (number == 2 or raw.isatty())
        stream: Any = io.TextIOWrapper(
            buffer, before.encoding, before.errors, line_buffering=lines, write_through=whole
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def run(words: list[str], path: list[str]) -> int:
    """As `python WORDS` would: its exit code."""
    code = 0
    try:
        if words[0] == "-m":
            sys.argv = ["-m", *words[2:]]
            sys.path[:] = [os.getcwd(), *path]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            sys.path[:] = [str(Path(words[0]).resolve().parent), *path]
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        if code == 1 and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        code = 130
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if "mpi4py.MPI" in sys.modules:
        from mpi4py import MPI

        if MPI.Is_initialized() and not MPI.Is_finalized():
            MPI.Finalize()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 120
    return code


def main() -> None:
    address, parent = sys.argv[1], int(sys.argv[2])
    for name in [name for name in os.environ if name.startswith(PADDING)]:
        del os.environ[name]
    before = dict(os.environ)
    import_all()
    threads = os.listdir("/proc/self/task")
    if len(threads) > 1 or threading.active_count() > 1:
        sys.exit(f"fork server: {len(threads)} threads before the fork, and a lock of theirs would stay locked")
    server = Server(address, parent, before)
    gc.collect()
    gc.freeze()  # or the collector writes into every page, and each child copies them
    server.serve()


if __name__ == "__main__":
    try:
        main()
    finally:
        Path(sys.argv[1] + ".starting").unlink(missing_ok=True)  # clients wait as long as it is there
