"""A job of processes: a launcher program that this host runs, and its ranks here and on other hosts.

Every process of it carries the job's run id, by which it is found, asked to stop and ended.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any, Protocol

from harness.cluster.hosts import Host, claim_slots
from harness.errors import BadInput
from harness.launching import processes, remote
from harness.launching.base import Job, JobSpec, Launcher
from harness.launching.environment import launch_environment, with_own_path
from harness.launching.outcome import Outcome, read_outcome
from harness.launching.output import Printed, read_output

TAIL_BYTES = 1 << 20  # how much of the output is read for the outcome
LONG_TAIL_BYTES = 1 << 25  # …where that much does not show it: other ranks may have printed more
STOP_SECONDS = 8.0  # how long hosts have to answer a stop request


class Program(Protocol):
    """A process that this one has started, as subprocess.Popen has it."""

    pid: int

    def poll(self) -> int | None: ...


class ProcessJob(Job):
    """`process`: the launcher program, where this process started it."""

    def __init__(self, saved: Mapping[str, Any], process: Program | None = None) -> None:
        self._saved = dict(saved)
        self._process = process  # None: not our child, its exit code cannot be read
        self._outcome: Outcome | None = None
        self._asked: dict[str, list[int]] = {}  # host (ours is ""): the ranks' processes that a stop request reached
        self.pid: int = saved["pid"]
        self.run_id: str = saved["run_id"]
        self.hosts = tuple(Host(**host) for host in saved["hosts"])
        self._others = remote.others([host.name for host in self.hosts])
        self._descriptor: int | None = None

    def save(self) -> dict[str, Any]:
        return dict(self._saved)

    def poll(self) -> Outcome | None:
        """How the job ended, None while its launcher runs. Never blocks.

        What a launcher left behind that was itself killed is not seen here: `end` after any failure leaves nothing.
        """
        if self._outcome is None:
            if self._process is not None:
                code = self._process.poll()
                running = code is None
            else:
                code = None
                running = self._launcher_lives()
            if not running:
                self._outcome = self._read_outcome(code)
                self._forget_descriptor()
        return self._outcome

    def descriptor(self) -> int | None:
        if self._outcome is not None:
            return None
        if (fileno := getattr(self._process, "fileno", None)) is not None:  # it hears of its end later than a pidfd
            told: int = fileno()
            return told if told >= 0 else None
        if self._descriptor is None:
            with suppress(OSError, AttributeError):  # not on every system
                self._descriptor = os.pidfd_open(self.pid)
        return self._descriptor

    def request_stop(self) -> int:
        """Signals USR2 to each rank that listens to it, on all hosts, and to nothing else."""
        requests = {host: ["stop", self.run_id, *map(str, self._asked.get(host, []))] for host in self._others}
        reached = processes.request_stop(self.run_id, self._asked.get("", []))
        self._asked.setdefault("", []).extend(reached)
        count = len(reached)
        for host, answer in remote.on_each(requests, self._reach_env(), STOP_SECONDS).items():
            if not isinstance(answer, str):
                self._asked.setdefault(host, []).extend(answer)
                count += len(answer)
        return count

    def state_of(self, rank: int, host: str, pid: int) -> str:
        if remote.is_here(host):
            return processes.state_of(self.run_id, pid)
        names = self._rank_hosts()
        name = names[rank] if rank < len(names) else host
        asked = {name: ["state", self.run_id, str(pid)]}
        answer = remote.on_each(asked, self._reach_env(), STOP_SECONDS)[name]
        return answer if isinstance(answer, str) else str(answer[0])

    def last_lines(self, rank: int) -> tuple[str, ...]:
        return read_output(*self._tail())[1].get(rank, Printed()).last_lines()

    def complaint(self) -> str | None:
        """An exception that a rank printed, else the last line on standard error where one rank alone wrote there."""
        ranks = sorted(read_output(*self._tail())[1].items())
        raised = [(rank, said) for rank, printed in ranks if (said := printed.exception())]
        words = [(rank, said) for rank, printed in ranks if (said := printed.last_error())]
        for rank, said in raised or (words if len(words) == 1 else []):
            return f"rank {rank} said: {said}"
        return None

    def rank_hosts(self) -> list[str]:
        return [self._shown(name) for name in self._rank_hosts()]

    def end(self, grace: float = 5.0) -> list[str]:
        """Ends the job: the launcher is asked, and after at most `grace` seconds all that carries the run id is killed.

        Returns when nothing is left on any host, after about 10 s more at most: a line for each host where that could
        not be brought about or seen. Safe to call on a job that is over, and worth it after any failure.
        """
        if self._signal_group(signal.SIGTERM):
            deadline = time.monotonic() + grace
            while time.monotonic() < deadline and self._group_lives():
                time.sleep(0.05)
            self._signal_group(signal.SIGKILL)
        left = processes.end_all(self.run_id)
        problems = [f"{socket.gethostname()}: processes {left} outlived their kill"] if left else []
        requests = {host: ["end", self.run_id] for host in self._others}
        for host, answer in remote.on_each(requests, self._reach_env(), 10.0 + remote.CONNECT_SECONDS).items():
            if isinstance(answer, str):
                problems.append(f"{host}: could not be reached to end what is left of the job ({answer})")
            elif answer:
                problems.append(f"{host}: processes {answer} outlived their kill")
        self.poll()  # reaps the launcher
        return problems

    def _forget_descriptor(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _launcher_lives(self) -> bool:
        return self._saved["start_time"] is not None and processes.start_time(self.pid) == self._saved["start_time"]

    def _group_lives(self) -> bool:
        if self._process is not None:
            self._process.poll()  # a zombie leader would keep the group
        try:
            os.killpg(self.pid, 0)
            return True
        except (ProcessLookupError, PermissionError):
            return False

    def _signal_group(self, number: signal.Signals) -> bool:
        """Signals the launcher's process group, if it is still the launcher's; whether it was."""
        # a launcher that died may have left an mpirun in its group, and the group's id is taken while that lives
        if not self._launcher_lives() and self.pid not in processes.groups_of(self.run_id):
            return False
        try:
            os.killpg(self.pid, number)
            return True
        except ProcessLookupError:
            return False

    def _read_outcome(self, code: int | None) -> Outcome:
        tail, begun_before = self._tail()
        outcome = read_outcome(tail, code, self.rank_hosts(), begun_before)
        if begun_before and outcome.exit_code != 0 and outcome.reason is None:
            tail, begun_before = self._tail(LONG_TAIL_BYTES)
            outcome = read_outcome(tail, code, self.rank_hosts(), begun_before)
        return outcome

    def _tail(self, size: int = TAIL_BYTES) -> tuple[str, bool]:
        """The end of what this job wrote, and whether it wrote more before it; what an earlier job wrote into the same
        file is left out."""
        try:
            with open(self._saved["output"], "rb") as output:
                first = self._saved["output_start"]
                begin = max(first, output.seek(0, os.SEEK_END) - size)
                output.seek(begin)
                return output.read().decode(errors="replace"), begin > first
        except OSError:
            return "", False

    def _rank_hosts(self) -> list[str]:
        return [host.name for host in self.hosts for _ in range(host.slots)]

    def _reach_env(self) -> dict[str, str]:
        return launch_environment(os.environ)

    @staticmethod
    def _shown(name: str) -> str:
        return socket.gethostname() if name == "localhost" else name


class ProcessLauncher(Launcher):
    """A launcher program on this host: what remains to be said is its command line."""

    job_class: type[ProcessJob] = ProcessJob

    @abstractmethod
    def command_line(self, spec: JobSpec, env: Mapping[str, str]) -> list[str]:
        """The command that starts the ranks; `env` is what it will run in."""

    def start(self, spec: JobSpec) -> ProcessJob:
        """Starts the ranks and returns. BadInput for more ranks than slots.

        The launcher leads a session of its own: no terminal's Ctrl-C reaches it, and it outlives this process.
        """
        spec, env = self.completed(spec)
        command = self.command_line(spec, env)
        spec.output.parent.mkdir(parents=True, exist_ok=True)
        with open(spec.output, "ab") as output:
            output_start = output.tell()
            process = self.start_program(command, env, spec.cwd, output)
        started = {"pid": process.pid, "start_time": processes.start_time(process.pid), "output_start": output_start}
        return self.job({**self.before_start(spec), **started}, process)

    def completed(self, spec: JobSpec) -> tuple[JobSpec, dict[str, str]]:
        """The job with as many slots as it has ranks, on this process's PATH; and its launcher's environment."""
        hosts = claim_slots(spec.hosts, spec.ranks, f"the hosts of {spec.run_id}")
        path = {"PATH": spec.env["PATH"]} if "PATH" in spec.env else os.environ
        spec = replace(spec, hosts=hosts, command=with_own_path(spec.command, path))
        return spec, {**launch_environment(os.environ), **spec.env, processes.RUN_ID: spec.run_id}

    def start_program(self, command: list[str], env: Mapping[str, str], cwd: Path, output: IO[bytes]) -> Program:
        """The launcher program as a process of its own."""
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=env,
            start_new_session=True,
        )

    def job(self, saved: Mapping[str, Any], process: Program | None = None) -> ProcessJob:
        return self.job_class(saved, process)

    def before_start(self, spec: JobSpec) -> dict[str, Any]:
        """As of a job whose launcher died at once."""
        return {
            "launcher": self.name,
            "pid": -1,
            "start_time": None,
            "run_id": spec.run_id,
            "host": socket.gethostname(),
            "hosts": [asdict(host) for host in spec.hosts],
            "output": str(spec.output.resolve()),
            "output_start": 0,
        }

    def find(self, saved: Mapping[str, Any]) -> ProcessJob:
        """BadInput on another host than the launcher's: from here it cannot be seen."""
        here = socket.gethostname()
        if saved["host"] != here:
            raise BadInput(f"job {saved['run_id']} was started on host {saved['host']}, this is {here}: continue there")
        return self.job(saved)


def hosts_argument(spec: JobSpec) -> str:
    """`a:2,b:1`, as -H of mpirun and horovodrun takes it."""
    return ",".join(f"{host.name}:{host.slots}" for host in spec.hosts)
