"""A rank whose environment gives a number that is none, and the one beside it: what each of them is told."""

from __future__ import annotations

from typing import Any

import torch

from harness.algorithms import Context, algorithm_class
from harness.config import resolve
from harness.distributed.transports.base import Communicator
from harness.envs import make_environments
from harness.errors import EnvironmentFault
from harness.reporting import PhaseTimer
from tests.harness.algorithms.test_faults import TABLES, Sensor
from tests.multirank.launch import give, join

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "ppo": ("ppo", {}, {}),
    "ppo, a reward": ("ppo", {}, {"what": "reward"}),
    "ppo, normalised": ("ppo", {"normalize_observations": True}, {"bad": "inf"}),
    "a2c, in the second of an iteration's rollouts": ("a2c", {}, {"after": 6}),
    "a2c, an infinity": ("a2c", {}, {"bad": "inf"}),
    "dqn": ("dqn", {}, {}),
    "dqn, an infinity before it learns": ("dqn", {}, {"bad": "inf", "after": 3}),
    "td3": ("td3", {}, {}),
}


def raised(communicator: Communicator, name: str, env: dict[str, Any], kwargs: dict[str, Any]) -> tuple[str, int, bool]:
    """What is raised, whose environment it is, and whether all that was learned is finite."""
    Sensor.made = 0
    env_id = f"tests.harness.algorithms.test_faults:{'Push' if name == 'td3' else 'Sensor'}-v0"
    which = {"which": 0 if communicator.rank == 1 else -1}
    config = resolve(
        {
            "run": {"steps": 1024},
            "env": {"id": env_id, "kwargs": {**kwargs, **which}, "count": 2, "backend": "sync", **env},
            "algorithm": {"name": name, **TABLES[name]},
            "network": {"hidden": [8]},
            "compile": {"mode": "off"},
        }
    )
    assert config.env is not None
    envs = make_environments(config.env, communicator.rank, communicator.size)
    made: Any = config, communicator, torch.device("cpu"), PhaseTimer(), envs, None
    algorithm = algorithm_class(name)(Context(*made))
    try:
        for iteration in range(3):
            algorithm.iterate(iteration)
    except EnvironmentFault as error:
        finite = all(bool(torch.isfinite(parameter).all()) for parameter in algorithm.module.parameters())
        return str(error), error.rank, finite
    finally:
        algorithm.close()
    return "nothing", -1, True


if __name__ == "__main__":
    world, communicator = join()
    give({case: raised(communicator, *rest) for case, rest in CASES.items()})
    world.stop()
