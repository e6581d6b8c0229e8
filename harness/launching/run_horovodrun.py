"""horovodrun without what takes its time: a question about Horovod's library, and a layer of Open MPI's.

Its launcher has already read from the library that the controller is there; horovodrun would find out by processes of
its own that load torch, about 2 s before each start. And its own choice of Open MPI's byte transfer layers hides the
environment's, which leaves out `ofi` (1.0 s at each end). A script that Python runs by its path, so that nothing of
this project is imported.

Nor with what ends or hangs its ranks: output that is not UTF-8, or that a full disk does not take, ends the thread that
forwards it, and the rank waits in its next `print` for ever; and an environment of thousands of variables does not fit
into the one word of a shell line, of which Linux takes 128 KB, that it writes all names or values into. `here` before
its arguments says that all ranks are on this host, and have the environment as it is.
"""

from __future__ import annotations

import codecs
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TextIO

LONGEST_WORD = 128 * 1024
"""Bytes of one word that a process is started with, its end included (Linux)."""


def forward_output(source: Any, stream: TextIO, kind: str | None, rank: int | None, with_time: bool) -> None:
    """What a rank writes, tagged and line by line, in place of Horovod's `prefix_connection`: whatever the bytes are,
    and until the rank has ended, whatever becomes of the stream."""
    decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode

    def show(text: str) -> None:
        at = time.asctime() if with_time else ""
        tag = f"{at}[{rank}]<{kind}>:" if rank is not None and kind is not None else ""
        with suppress(OSError, ValueError):  # a full disk, a stream that is closed: the rank must not wait for it
            stream.write(tag + text)
            stream.flush()

    waiting: list[str] = []
    while True:
        data = os.read(source.fileno(), 65536)
        for piece in re.split("(?<=[\r\n])", decode(data, final=not data)):
            waiting.append(piece)
            if piece.endswith(("\r", "\n")):
                show("".join(waiting))
                waiting.clear()
        if not data:
            break
    if any(waiting):
        show("".join(waiting))
    source.close()


def execute_by_words(execute: Callable[..., Any]) -> Callable[..., Any]:
    """`execve`, which starts what `sh -c` would by its own words where the shell line is longer than one may be."""

    def execve(path: str, words: Sequence[str], env: Mapping[str, str]) -> Any:
        if len(words) == 3 and words[1] == "-c" and len(os.fsencode(words[2])) >= LONGEST_WORD:
            words = shlex.split(words[2])
            path = shutil.which(words[0], path=env.get("PATH")) or words[0]
        return execute(path, words, env)

    return execve


if __name__ == "__main__":
    del sys.path[0]  # this folder, whose modules are not to be found by their bare names
    from horovod.runner import launch

    launch.mpi_built = launch.gloo_built = lambda verbose=False: True
    layers = os.environ.get("OMPI_MCA_btl", "^ofi")
    flags = sys.modules["horovod.runner.mpi_run"]._OMPI_FLAGS
    flags[:] = [flag for flag in flags if " btl " not in flag]
    # openib Horovod leaves out itself
    flags.append("-mca btl ^openib,ofi" if layers == "^ofi" else f"-mca btl {layers}")
    runner: Any = sys.modules["horovod.runner.common.util.safe_shell_exec"]
    runner.prefix_connection = forward_output
    os.execve = execute_by_words(os.execve)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    if sys.argv[1:2] == ["here"]:
        del sys.argv[1]
        environment: Any = sys.modules["horovod.runner.common.util.env"]
        environment.is_exportable = lambda name: name not in os.environ
    sys.argv[0] = "horovodrun"
    sys.exit(launch.run_commandline())
