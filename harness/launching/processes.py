"""The processes of a run on one host: found by the run id in their environment, asked to stop, ended.

Standard library alone and no import of this package: its source is also sent to other hosts and run there (remote.py).
Launchers cannot be trusted with this: TERM to `horovodrun --mpi` kills a shell and leaves the ranks; KILL to its group
misses ranks, which have groups of their own; and environment workers outlive a rank that was killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import dataclass

RUN_ID = "HARNESS_RUN_ID"
ALONE = "HARNESS_RANK"  # of a rank that no launcher has started
# not Slurm's: a batch script and all below it carry it
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "HOROVOD_RANK", ALONE)
STOP_SIGNAL = signal.SIGUSR2  # not USR1: NCCL catches that one


@dataclass(frozen=True)
class Process:
    """A process that carries a run id. `rank` is None for launchers; `listens` says that it catches the stop signal."""

    pid: int
    parent: int
    rank: str | None
    listens: bool


def processes_of(run_id: str) -> dict[int, Process]:
    """This user's processes on this host whose environment carries `run_id`, without this one. Zombies have none."""
    wanted = f"{RUN_ID}={run_id}".encode()
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            if os.stat(f"/proc/{entry}").st_uid != os.geteuid():
                continue
            with open(f"/proc/{entry}/environ", "rb") as file:
                variables = file.read().split(b"\0")
            if wanted not in variables:
                continue
            with open(f"/proc/{entry}/status") as file:
                status = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
        except OSError:  # gone meanwhile, or not ours to read
            continue
        named = dict(variable.split(b"=", 1) for variable in variables if b"=" in variable)
        ranks = [named[name.encode()].decode() for name in RANK_VARIABLES if name.encode() in named]
        listens = bool(int(status["SigCgt"], 16) >> (STOP_SIGNAL - 1) & 1)
        found[int(entry)] = Process(int(entry), int(status["PPid"]), ranks[0] if ranks else None, listens)
    return found


def stop_listeners(processes: dict[int, Process]) -> list[int]:
    """The process of each rank that a stop request is for: the top-most one that catches the signal.

    Not a shell around the rank, which the signal would kill, nor a rank that has not come so far, nor the environment
    workers below it, which may have inherited its handler.
    """
    listeners = []
    for process in processes.values():
        if process.rank is None or not process.listens:
            continue
        above = processes.get(process.parent)
        while above is not None and not (above.listens and above.rank == process.rank):
            above = processes.get(above.parent)
        if above is None:
            listeners.append(process.pid)
    return sorted(listeners)


def request_stop(run_id: str, asked: list[int]) -> list[int]:
    """Signals the ranks on this host that listen and are not in `asked`; their process ids."""
    reached = []
    for pid in stop_listeners(processes_of(run_id)):
        if pid not in asked:
            try:
                os.kill(pid, STOP_SIGNAL)
                reached.append(pid)
            except ProcessLookupError:
                pass
    return reached


def groups_of(run_id: str) -> set[int]:
    """The process groups of the run on this host."""
    groups = set()
    for pid in processes_of(run_id):
        try:
            groups.add(os.getpgid(pid))
        except ProcessLookupError:
            pass
    return groups


def end_all(run_id: str, limit: float = 8.0) -> list[int]:
    """Kills until no process of the run is left on this host, for at most `limit` seconds; the ids of those left."""
    deadline = time.monotonic() + limit
    quiet = 0
    while True:
        left = sorted(processes_of(run_id))
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        quiet = 0 if left else quiet + 1
        # a process may start another one while /proc is read: the second empty look is the answer
        if quiet == 2 or time.monotonic() > deadline:
            return left
        time.sleep(0.05)


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: with the id it names one process, however ids are reused.

    None where it does not run (a zombie does not).
    """
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def state_of(run_id: str, pid: int) -> str:
    """`running`, `stopped` (by a signal) or `gone`: a process of the run on this host."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            ours = f"{RUN_ID}={run_id}".encode() in file.read().split(b"\0")
        with open(f"/proc/{pid}/stat") as file:
            state = file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"
    return "gone" if not ours or state in "ZX" else "stopped" if state == "T" else "running"


if __name__ == "__main__":  # on another host, answered by a list in one line of JSON
    action, the_run, *pids = sys.argv[1:]
    if action == "end":  # RUN_ID
        print(json.dumps(end_all(the_run)))
    elif action == "stop":  # RUN_ID PID…, those that were asked already
        print(json.dumps(request_stop(the_run, [int(pid) for pid in pids])))
    else:  # state RUN_ID PID…
        print(json.dumps([state_of(the_run, int(pid)) for pid in pids]))
