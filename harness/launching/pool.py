"""Ranks that are forked from a server which has done their imports: each a fresh process in milliseconds.

A job of several ranks is its own launcher's job as ever, whose ranks become clients of the server. A single rank of
`harness train` needs no launcher: it is the job. Where the server cannot stand in, processes start with their imports.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from harness.cluster.hosts import Host
from harness.errors import BadInput
from harness.launching import processes, remote
from harness.launching.base import JobSpec
from harness.launching.environment import launch_environment
from harness.launching.horovodrun import Horovodrun
from harness.launching.outcome import Outcome, read_outcome
from harness.launching.output import LAST_LINES
from harness.launching.process_job import ProcessJob, ProcessLauncher, Program
from harness.launching.warm import client
from harness.launching.warm.owner import HOROVODRUN, MODULES, SEVERAL, WarmServer
from harness.launching.warm.program import read_program
from harness.text import last_that_fit

MOST_RESTARTS = 3
"""Of a server that dies: then all processes start fresh."""
NOTE = "Process 0 exit with status code {}.\n"
NOTED = re.compile(r"Process 0 exit with status code \d+\.\n?")
CLIENT = (sys.executable, "-S", "-E", str(Path(client.__file__)))


def can_be_had() -> bool:
    """Whether processes can be forked from a server here. Inside a Slurm allocation ranks belong to their own steps."""
    return sys.platform == "linux" and "SLURM_JOB_ID" not in os.environ


class LoneRank(ProcessJob):
    """A job that is its only rank: all that stands in its output is the rank's, but for how it ended."""

    def _read_outcome(self, code: int | None) -> Outcome:
        text, begun_before = self._tail()
        lines = text.splitlines(keepends=True)
        tagged = [line if NOTED.fullmatch(line) else f"[0]<stdout>:{line}" for line in lines]
        if code:
            tagged.append(f"\n{NOTE.format(code if code > 0 else 128 - code)}")
        return read_outcome("".join(tagged), code, self.rank_hosts(), begun_before)

    def last_lines(self, rank: int) -> tuple[str, ...]:
        lines = [line for line in self._tail()[0].splitlines() if not NOTED.fullmatch(line)]
        return last_that_fit(lines[-LAST_LINES:])


class Pool(ProcessLauncher):
    """`inner` starts the ranks of a job; the server is started with the first job, or by `open`."""

    def __init__(self, name: str, inner: ProcessLauncher) -> None:
        self.name, self.inner = name, inner
        self.carries_mpi = inner.carries_mpi
        self._server: WarmServer | None = None
        self._deaths = 0
        self._gave_up = False
        self._notices: list[str] = []
        self._known_refusals: set[str] = set()

    @property
    def told(self) -> str:
        return f"{self.name} (warm ranks)"

    def check(self, hosts: Sequence[Host] = ()) -> None:
        if sys.platform != "linux":
            raise BadInput(f"launcher {self.name} needs Linux: choose {self.inner.name}")
        self.inner.check(hosts)

    def open(self, ranks: int) -> None:
        self._renew(ranks)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def notices(self) -> list[str]:
        if self._server is not None:
            self._server.listen()
            for reason in self._server.refusals.keys() - self._known_refusals:
                self._known_refusals.add(reason)
                self._notices.append(f"processes of {self.name} start with their imports: {reason}")
        lines, self._notices = self._notices, []
        return lines

    def start(self, spec: JobSpec) -> ProcessJob:
        self._renew(spec.ranks)
        return super().start(spec)

    def completed(self, spec: JobSpec) -> tuple[JobSpec, dict[str, str]]:
        completed, env = super().completed(spec)
        if not is_alone(spec):
            return completed, env
        path = completed.command[1].removeprefix("PATH=")
        return replace(completed, command=spec.command), {**env, "PATH": path, processes.ALONE: "0"}

    def command_line(self, spec: JobSpec, env: Mapping[str, str]) -> list[str]:
        if is_alone(spec):
            return list(spec.command)
        prefix, words = spec.command[:2], spec.command[2:]  # `env PATH=…`
        if self._server is not None and words[0] == sys.executable and read_program(words[1:]) is not None:
            spec = replace(spec, command=(*prefix, *CLIENT, self._server.address, *words))
        return self.inner.command_line(spec, env)

    def start_program(self, command: list[str], env: Mapping[str, str], cwd: Path, output: IO[bytes]) -> Program:
        if self._server is not None and command[0] == sys.executable:
            forked = self._server.fork(command, env, cwd, output, noted=processes.ALONE in env)
            if forked is not None:
                return forked
        return super().start_program(command, env, cwd, output)

    def job(self, saved: Mapping[str, Any], process: Program | None = None) -> ProcessJob:
        return LoneRank(saved, process) if saved.get("alone") else self.inner.job(saved, process)

    def before_start(self, spec: JobSpec) -> dict[str, Any]:
        return {**super().before_start(spec), "alone": is_alone(spec)}

    def _renew(self, ranks: int) -> None:
        """Another server where there is none yet, where it has died, and where what it has imported has changed."""
        if self._gave_up:
            return
        if self._server is not None and not self._server.lives:
            self._deaths += 1
            self._server.listen()
            died = f"the server of {self.name} died{self._server.last_words()}"
            self._gave_up = self._deaths > MOST_RESTARTS or bool(self._server.unable)
            then = "from now on processes start with their imports" if self._gave_up else "it is started again"
            self._notices.append(f"{died}: {then}")
            self.close()
        elif self._server is not None and not self._server.is_current:
            self._notices.append(f"packages have changed: the server of {self.name} is started again")
            self.close()
        if self._server is None and not self._gave_up:
            try:
                self._server = WarmServer(launch_environment(os.environ), self._modules(ranks))
            except OSError as error:
                self._gave_up = True
                self._notices.append(f"{self.name} has no server, so that processes start with their imports: {error}")

    def _modules(self, ranks: int) -> list[str]:
        several = [*SEVERAL, *([HOROVODRUN] if isinstance(self.inner, Horovodrun) else [])]
        return [*MODULES, *(several if ranks > 1 else [])]


def is_alone(spec: JobSpec) -> bool:
    """Whether a job is one rank of `harness train` here: it needs nobody to start it."""
    words = spec.command[2:] if spec.command[0] == "env" else spec.command
    program = read_program(words[1:]) if words[0] == sys.executable else None
    here = not remote.others([host.name for host in spec.hosts])
    return spec.ranks == 1 and here and program is not None and program.sets_threads
