"""A worker process: makes its part of a rank's environments and steps them whenever it is told to.

It is a fresh interpreter, not a fork: a rank has MPI, Horovod and threads in it, which a fork would copy halfway. It
imports no torch. It ends when its rank has closed the pipe that they share, in whatever way the rank ended; signals
that ask a job to stop are the rank's to hear.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import traceback
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from harness.envs.backends.shared import SharedArrays
from harness.envs.backends.sync import put_back_each, step_in_turn
from harness.envs.factory import make_environment
from harness.envs.settings import EnvSettings
from harness.envs.snapshots.snapshot import Snapshots
from harness.errors import BadInput

STATE, LOAD_STATE, RESET, CLOSE = 252, 253, 254, 255
"""Commands, a byte each; a smaller one is the number of the group to step. After LOAD_STATE, and after the answer to
STATE, comes what `send_object` writes."""
DONE, FAILED = b".", b"!"
"""Answers; after FAILED a pickled Failure."""

START = """
import pickle, signal, sys
for each in {signals}:
    signal.signal(each, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signals})
sys.path[:] = pickle.load(sys.stdin.buffer)
from harness.envs.backends.worker import main
main()
"""


@dataclass(frozen=True)
class Task:
    """What a rank tells its worker before all else."""

    settings: EnvSettings
    spec: Any
    """gymnasium's registration, where the rank itself made it rather than a module that `env.id` names."""
    count: int
    """Environments of the rank."""
    first: int
    """The global index of the rank's first one."""
    observation_space: spaces.Box
    action_space: spaces.Space
    rows: tuple[slice, ...]
    """This worker's environments in each group, as rows of the rank's."""
    memory: int
    """File descriptor of the shared memory."""
    commands: int
    answers: int
    life: int
    """Nothing is ever written to it; it ends when the rank does."""


@dataclass(frozen=True)
class Failure:
    """What went wrong in a worker."""

    error: str
    bad_input: bool
    traceback: str


def send_object(fd: int, value: Any) -> None:
    """`value` as its length in 8 bytes, and itself."""
    data = memoryview(pickle.dumps(value))
    data = memoryview(len(data).to_bytes(8, "little") + data)
    while data:
        data = data[os.write(fd, data) :]


def receive_object(fd: int) -> Any:
    """What the other end has sent; EOFError where it has gone."""

    def read(count: int) -> bytes:
        parts = []
        while count:
            parts.append(os.read(fd, min(count, 2**20)))
            if not parts[-1]:
                raise EOFError
            count -= len(parts[-1])
        return b"".join(parts)

    return pickle.loads(read(int.from_bytes(read(8), "little")))


def main() -> None:
    task: Task = pickle.load(sys.stdin.buffer)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    def end_with_the_rank() -> None:
        os.read(task.life, 1)
        os._exit(1)

    threading.Thread(target=end_with_the_rank, daemon=True).start()
    try:
        serve(task)
    except Exception as error:
        bad_input = isinstance(error, BadInput)
        where = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        message = str(error) if bad_input else f"{type(error).__name__}: {error}{where}"
        os.write(task.answers, FAILED + pickle.dumps(Failure(message, bad_input, traceback.format_exc())))
        os._exit(1)


def serve(task: Task) -> None:
    """Obeys until told to close."""
    shared = SharedArrays(
        task.count, task.observation_space, task.action_space, task.memory, len(task.settings.info_metrics)
    )
    if task.spec is not None and task.spec.id not in gym.registry:
        gym.registry[task.spec.id] = task.spec
    groups = [[make_environment(task.settings) for _ in range(rows.stop - rows.start)] for rows in task.rows]
    snapshots = [Snapshots() for _ in groups]
    os.write(task.answers, DONE)
    while True:
        read = os.read(task.commands, 1)
        if not read or read[0] == CLOSE:
            break
        if read[0] == STATE:
            states = [each.take(envs) for each, envs in zip(snapshots, groups)]
            os.write(task.answers, DONE)
            send_object(task.answers, states)
            continue
        if read[0] == LOAD_STATE:
            goes_on = [
                put_back_each(envs, states, shared.seeds[rows].tolist())
                for rows, envs, states in zip(task.rows, groups, receive_object(task.commands))
            ]
            os.write(task.answers, DONE)
            send_object(task.answers, goes_on)
            continue
        if read[0] == RESET:
            for rows, envs, each in zip(task.rows, groups, snapshots):
                with each.resetting(envs):
                    for row, env in zip(range(rows.start, rows.stop), envs):
                        shared.out.observations[row], _ = env.reset(seed=int(shared.seeds[row]))
        else:
            rows = task.rows[read[0]]
            # a copy: an environment may keep the action that it was given
            actions, first = shared.actions[rows].copy(), task.first + rows.start
            step_in_turn(groups[read[0]], actions, shared.out.rows(rows), first, task.settings.info_metrics)
        os.write(task.answers, DONE)
    for envs in groups:
        for env in envs:
            env.close()
