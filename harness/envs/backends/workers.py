"""A rank's environments in worker processes of several environments each; only bytes that wake them go through pipes.

Each worker has a part of every group, so that all of them step the group that was sent.
"""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
from gymnasium import spaces

from harness.envs.backends.base import Backend, StepResult, Vector
from harness.envs.backends.shared import SharedArrays
from harness.envs.backends.worker import (
    CLOSE,
    DONE,
    LOAD_STATE,
    RESET,
    START,
    STATE,
    Failure,
    Task,
    receive_object,
    send_object,
)
from harness.envs.factory import make_environment
from harness.envs.inspection import borrowed, check_environment
from harness.envs.settings import EnvSettings, is_atari
from harness.errors import BadInput, EnvironmentFailed

DEAF_TO = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""What asks a job to stop, and may be sent to all of its processes: the rank hears it, and ends its workers."""
PATIENCE = 5.0
"""Seconds that a worker has to close its environments."""
WORKER_SECONDS = 50e-6
"""What a step of workers costs beside the environments' own time, one core each (tests/benchmarks/environments.py)."""
CLEARLY = 0.75
"""How much shorter the estimate of another backend's step must be than that of the simpler one."""
MANY_WORKERS = 4
"""While the policy acts on one core, all workers wait for it; with two halves it acts twice. From so many on that is
shorter than what they wait. A policy on another device takes nothing from them."""
MEASURE_SECONDS = 0.02
BLOCKS = 8


def parts_of(rows: slice, parts: int) -> list[slice]:
    """`rows` in so many consecutive parts, which differ by at most one."""
    edges = [rows.start + (rows.stop - rows.start) * part // parts for part in range(parts + 1)]
    return [slice(low, high) for low, high in zip(edges, edges[1:])]


class Process:
    """A worker, and this end of its pipes."""

    def __init__(self, settings: EnvSettings, spec: object, first: int, shared: Workers, rows: list[slice]) -> None:
        self.rows = rows
        commands, self.commands = os.pipe()
        self.answers, answers = os.pipe()
        life, self.life = os.pipe()
        theirs = (commands, answers, life)
        task = Task(
            settings=settings,
            spec=spec,
            count=shared.count,
            first=first,
            observation_space=shared.observation_space,
            action_space=shared.action_space,
            rows=tuple(rows),
            memory=shared.arrays.fd,
            commands=commands,
            answers=answers,
            life=life,
        )
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, DEAF_TO)  # until the worker ignores them
        try:
            self.popen = subprocess.Popen(
                [sys.executable, "-c", START.format(signals=tuple(int(each) for each in DEAF_TO))],
                stdin=subprocess.PIPE,
                pass_fds=(*theirs, shared.arrays.fd),
                env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            for fd in theirs:
                os.close(fd)
        assert self.popen.stdin is not None
        with suppress(BrokenPipeError):  # it died: its first answer tells how
            self.popen.stdin.write(pickle.dumps(sys.path) + cloudpickle.dumps(task))
            self.popen.stdin.close()

    def tell(self, command: int) -> None:
        with suppress(BrokenPipeError):
            os.write(self.commands, bytes([command]))

    def wait(self) -> None:
        """Until the oldest command that was not waited for is done; EnvironmentFailed or BadInput where it failed."""
        answer = os.read(self.answers, 1)
        if answer == DONE:
            return
        sent = b""
        while more := os.read(self.answers, 65536):
            sent += more
        code = self.popen.wait()
        if answer:
            failure: Failure = pickle.loads(sent)
            if failure.bad_input:
                raise BadInput(failure.error)
            error = EnvironmentFailed(failure.error)
            error.add_note("In the worker process:\n" + failure.traceback)
            raise error
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise EnvironmentFailed(f"a worker process {how} in the midst of its environments")

    def close(self, deadline: float) -> None:
        """After CLOSE was told."""
        try:
            self.popen.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        for fd in (self.commands, self.answers, self.life):
            os.close(fd)


class Workers(Vector):
    """`count` environments in up to `workers` processes; `groups` of them step apart from each other."""

    backend = "workers"

    def __init__(
        self,
        settings: EnvSettings,
        count: int,
        observation_space: spaces.Box,
        action_space: spaces.Space,
        workers: int,
        groups: int = 1,
        first: int = 0,
    ) -> None:
        """`first`: the global index of the first environment."""
        self.count, self.observation_space, self.action_space = count, observation_space, action_space
        self.groups = tuple(parts_of(slice(0, count), min(groups, count)))
        self.metrics = len(settings.info_metrics)
        self.arrays = SharedArrays(count, observation_space, action_space, metrics=self.metrics)
        largest = max(group.stop - group.start for group in self.groups)
        shares = [parts_of(group, min(workers, largest)) for group in self.groups]
        # a module that env.id names, and ale-py, register theirs in the worker too; cloudpickle carries classes of the
        # user's script
        known = ":" in settings.id or is_atari(settings.id)
        spec = None if known else gym.registry.get(settings.id)
        self.processes = [Process(settings, spec, first, self, list(rows)) for rows in zip(*shares)]
        try:
            for process in self.processes:
                process.wait()
        except BaseException:
            self.close()
            raise

    def reset(self, seeds: list[int]) -> np.ndarray:
        self.arrays.seeds[:] = seeds
        self._all(RESET)
        return self.arrays.out.observations.copy()

    def _all(self, command: int) -> None:
        for process in self.processes:
            process.tell(command)
        for process in self.processes:
            process.wait()

    def send(self, actions: np.ndarray, group: int = 0) -> None:
        self.arrays.actions[self.groups[group]] = actions
        for process in self.processes:
            process.tell(group)

    def receive(self, group: int = 0) -> StepResult:
        """Groups are received in the order in which they were sent."""
        for process in self.processes:
            process.wait()
        out = self.arrays.out.rows(self.groups[group])
        terminated, truncated, rewards = out.terminated.copy(), out.truncated.copy(), out.rewards.copy()
        final = lives_lost = metrics = None
        done = terminated | truncated
        if done.any():
            final, lives_lost = out.final_observations.copy(), out.lives_lost & done
            metrics = out.info_metrics.copy() if self.metrics else None
        return StepResult(
            out.observations.copy(), rewards, rewards, terminated, truncated, final, lives_lost, info_metrics=metrics
        )

    def state(self) -> dict[str, Any] | None:
        states: list[Any] = [None] * self.count
        for process in self.processes:
            process.tell(STATE)
        for process in self.processes:
            process.wait()
            for rows, part in zip(process.rows, receive_object(process.answers)):
                states[rows] = part
        return {"envs": states} if any(states) else None

    def load_state(self, state: dict[str, Any]) -> np.ndarray:
        goes_on = np.zeros(self.count, dtype=bool)
        for process in self.processes:
            process.tell(LOAD_STATE)
            send_object(process.commands, [state["envs"][rows] for rows in process.rows])
        for process in self.processes:
            process.wait()
            for rows, part in zip(process.rows, receive_object(process.answers)):
                goes_on[rows] = part
        return goes_on

    def close(self) -> None:
        deadline = time.monotonic() + PATIENCE
        for process in self.processes:
            process.tell(CLOSE)
        for process in self.processes:
            process.close(deadline)
        self.processes = []
        if self.arrays.fd >= 0:
            os.close(self.arrays.fd)
            self.arrays.fd = -1


class WorkersBackend(Backend):
    def refuses(self, settings: EnvSettings) -> str | None:
        return None

    def preferred(self, settings: EnvSettings, count: int, cores: int) -> bool:
        return seems_slow(settings, count, cores)

    def double_buffered(self, settings: EnvSettings, count: int, cores: int, device: str) -> bool:
        workers = settings.workers or cores
        idle = device != "cpu" or workers >= MANY_WORKERS
        return idle and count >= 2 * workers

    def make(self, settings: EnvSettings, count: int, first: int, cores: int) -> Vector:
        groups = 2 if settings.double_buffer == "on" else 1
        return Workers(settings, count, *check_environment(settings), settings.workers or cores, groups, first)

    def library_vector(self, settings: EnvSettings, count: int, cores: int) -> Any:
        return gym.vector.AsyncVectorEnv([lambda: make_environment(settings)] * count)


def seems_slow(settings: EnvSettings, count: int, cores: int) -> bool:
    """Whether workers clearly shorten a step of so many environments, by a measurement of some milliseconds."""
    workers = min(settings.workers or cores, count)
    if workers == 1:
        return False
    try:
        one = seconds_of_one(settings)
    except BadInput:
        raise
    except Exception:  # the run meets what is wrong with it again, where it is told with its environment and rank
        return False
    return -(-count // workers) * one + WORKER_SECONDS < CLEARLY * count * one


def seconds_of_one(settings: EnvSettings) -> float:
    """Of one environment's step with random actions, resets among them: the least of BLOCKS means, so that what else
    runs on the machine decides nothing."""
    with borrowed(settings) as env:
        env.reset(seed=0)
        actions = copy.deepcopy(env.action_space)
        actions.seed(0)
        env.step(actions.sample())  # the first may be slower
        seconds: list[float] = []
        until = time.perf_counter() + MEASURE_SECONDS
        while len(seconds) < BLOCKS or time.perf_counter() < until and len(seconds) < 1000:
            began = time.perf_counter()
            _, _, terminated, truncated, _ = env.step(actions.sample())
            if terminated or truncated:
                env.reset()
            seconds.append(time.perf_counter() - began)
        return float(min(block.mean() for block in np.array_split(seconds, BLOCKS)))
