"""Worker processes: the same steps as one after the other, clear failures, and an end with their rank."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import pytest

from harness.envs import Environments, EnvSettings, make_environments
from harness.errors import EnvironmentFailed
from tests.command import environment
from tests.conftest import wait_for
from tests.environments import Line


def make(env_id: str, count: int, backend: str = "workers", **settings: Any) -> Environments:
    table = {"id": env_id, "count": count, "backend": backend, "workers": 2, "double_buffer": "off", **settings}
    return make_environments(EnvSettings.model_validate(table), 0, 1)


def pids(envs: Environments) -> list[int]:
    return [process.popen.pid for process in envs.vector.processes]  # type: ignore[attr-defined]


@pytest.mark.parametrize("env_id", ["Acrobot-v1", "Pendulum-v1", "tests.environments:Bytes-v0"])
@pytest.mark.parametrize("double_buffer", ["off", "on"])
def test_steps_are_those_of_one_after_the_other(env_id: str, double_buffer: str) -> None:
    limit = {"max_episode_steps": 30}
    vectors = [make(env_id, 5, backend, kwargs=limit, double_buffer=double_buffer) for backend in ("sync", "workers")]
    one, other = vectors
    assert len(other.groups) == (2 if double_buffer == "on" else 1)
    space = one.action_space
    space.seed(0)
    np.testing.assert_array_equal(one.reset(seed=1), other.reset(seed=1))
    ends = 0
    for _ in range(100):
        actions = np.stack([space.sample() for _ in range(5)])
        expected, result = one.step(actions), other.step(actions)
        done = expected.terminated | expected.truncated
        for name in ("observations", "rewards", "true_rewards", "terminated", "truncated"):
            theirs, ours = getattr(expected, name), getattr(result, name)
            assert theirs.dtype == ours.dtype and theirs.tobytes() == ours.tobytes(), name
        assert (result.final_observations is None) == (not done.any())
        if done.any():
            assert expected.final_observations is not None and result.final_observations is not None
            np.testing.assert_array_equal(expected.final_observations[done], result.final_observations[done])
        ends += int(done.sum())
    assert ends >= 15
    for envs in vectors:
        envs.close()


def test_a_group_steps_while_another_waits_for_its_actions() -> None:
    envs = make("tests.environments:Count-v0", 4, double_buffer="on")
    envs.reset(seed=0)
    first, second = envs.groups
    ones = np.ones(2, dtype=np.int64)
    envs.send(ones, 0)
    envs.receive(0)
    envs.send(ones, 0)
    envs.send(ones, 1)
    assert envs.receive(0).observations[:, 1].tolist() == [2, 2] and (first.stop, second.start) == (2, 2)
    assert envs.receive(1).observations[:, 1].tolist() == [1, 1]
    envs.close()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raise", r"RuntimeError: the environment broke on purpose \(in environment [012]\)"),
        ("kill", "was killed by SIGKILL"),
        ("exit", "ended with exit code 3"),
    ],
)
def test_a_failure_comes_out_as_one_that_names_it(how: str, said: str) -> None:
    envs = make("tests.environments:Broken-v0", 3, kwargs={"how": how, "rank": 0, "at": 4})
    envs.reset(seed=0)
    with pytest.raises(EnvironmentFailed, match=said) as caught:
        for _ in range(4):
            envs.step(np.ones(3, dtype=np.int64))
    assert len(str(caught.value).splitlines()) == 1
    if how == "raise":
        lines = "".join(traceback.format_exception(caught.value))
        assert "In the worker process:" in lines and "tests/environments.py" in lines
    mine = pids(envs)
    envs.close()
    assert not any(psutil.pid_exists(pid) for pid in mine)


def test_an_environment_of_the_users_own_script_needs_no_module() -> None:
    class OfMyOwn(Line):
        pass

    gym.register("OfMyOwn-v0", OfMyOwn, max_episode_steps=50)
    try:
        envs = make("OfMyOwn-v0", 2)
        assert envs.reset(seed=0).shape == (2, 2)
        envs.close()
    finally:
        del gym.registry["OfMyOwn-v0"]


def test_what_asks_a_job_to_stop_is_the_ranks_to_hear() -> None:
    envs = make("tests.environments:Line-v0", 2)
    envs.reset(seed=0)
    for pid in pids(envs):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
            os.kill(pid, number)
    for _ in range(30):
        assert envs.step(np.ones(2, dtype=np.int64)).true_rewards.tolist() == [1.0, 1.0]
    envs.close()


ORPHANS = """
from harness.envs import EnvSettings, make_environments
import time, numpy as np
envs = make_environments(EnvSettings(
    id="tests.environments:Busy-v0", kwargs={"seconds": 60.0}, count=4, backend="workers", workers=2,
    double_buffer="off",
), 0, 1)
envs.reset(seed=0)
envs.send(np.ones(4, dtype=int))
print(*(process.popen.pid for process in envs.vector.processes), flush=True)
time.sleep(60)
"""


def test_workers_end_when_their_rank_is_killed_even_within_a_step() -> None:
    rank = subprocess.Popen([sys.executable, "-c", ORPHANS], env=environment(), stdout=subprocess.PIPE, text=True)
    assert rank.stdout is not None
    workers = [int(pid) for pid in rank.stdout.readline().split()]
    try:
        assert len(workers) == 2 and all(psutil.pid_exists(pid) for pid in workers)
        rank.kill()
        rank.wait()
        gone = lambda: not any(alive(pid) for pid in workers)  # noqa: E731
        wait_for(gone, 10, "end of the workers")
    finally:
        for pid in [rank.pid, *workers]:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
