"""In a process that was just forked: it becomes `python WORDS` with another's environment, directory and streams."""

from __future__ import annotations

import atexit
import ctypes
import io
import os
import random
import resource
import runpy
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.cluster.slots import confine_rank
from harness.launching.warm.program import Program

STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def become(
    asked: Mapping[str, Any], program: Program, descriptors: Sequence[int], added: Mapping[str, str], path: list[str]
) -> int:
    """Runs the program to its end: its exit code. `added`: what imports have set; `path`: sys.path of the server."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
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
    if program.confined:
        confine_rank(os.environ)
    open_streams()
    if not program.sets_threads:
        set_threads()
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    sys.orig_argv = [sys.executable, *asked["words"]]
    return run(program, path)


def threads_wanted(environ: Mapping[str, str], cores: int) -> int | None:
    """Threads of arithmetic that libraries would choose as they are loaded; None where only they know."""
    text = environ.get("OMP_NUM_THREADS", "")
    if text.isdecimal() and int(text) > 0:
        return int(text)
    return 1 if cores == 1 and not text else None


def set_threads() -> None:
    """As libraries set them that are loaded under this environment, on these cores."""
    wanted = threads_wanted(os.environ, len(os.sched_getaffinity(0))) or 1
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(wanted)
    text = os.environ.get("OPENBLAS_NUM_THREADS", "")
    blas = int(text) if text.isdecimal() else wanted
    if blas != 1:  # it is 1 in the server
        from threadpoolctl import threadpool_limits

        threadpool_limits(blas, user_api="blas")


def shown_by_kernel(asked: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """/proc/PID/cmdline and environ of the process that is asked for."""
    words = [sys.executable, *asked["words"]]
    variables = [f"{name}={value}" for name, value in asked["environ"].items()]
    return as_words(words), as_words(variables)


def as_words(texts: Sequence[str]) -> bytes:
    return b"".join(os.fsencode(text) + b"\0" for text in texts)


def shown_memory() -> tuple[tuple[int, int], tuple[int, int]]:
    """Where this process's arguments and environment lie, as it was given them: what the kernel shows of it."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return (int(fields[45]), int(fields[46])), (int(fields[47]), int(fields[48]))


def take_environment(asked: Mapping[str, Any]) -> None:
    """Also where others look for it: the processes of a run are found by their environments in /proc."""
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


def tell_end_itself(connection: socket.socket, server: int) -> None:
    """This process tells its client how it ended where the server has died, which else would."""
    own, end = os.getpid(), os._exit

    def exit_and_tell(code: int) -> None:
        if os.getpid() == own and os.getppid() != server:
            try:
                connection.send((code << 8 & 0xFF00).to_bytes(4, "little"))
            except OSError:
                pass
        end(code)

    os._exit = exit_and_tell  # type: ignore[assignment]


def run(program: Program, path: Sequence[str]) -> int:
    """As Python would: its exit code."""
    code = 0
    folder = program.folder(os.getcwd())
    sys.path[:] = [*([folder] if folder is not None else []), *path]
    try:
        if program.is_module:
            sys.argv = ["-m", *program.arguments]
            runpy.run_module(program.name, run_name="__main__", alter_sys=True)
        else:
            sys.argv = [program.name, *program.arguments]
            runpy.run_path(program.name, run_name="__main__")
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
    return finish(code)


def finish(code: int) -> int:
    """What Python does at its end, but for taking apart what was imported, which would copy every page of it."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if "mpi4py.MPI" in sys.modules:
        from mpi4py import MPI, rc

        if rc.finalize is not False and MPI.Is_initialized() and not MPI.Is_finalized():
            MPI.Finalize()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 120
    return code
