"""What stepping environments costs, beside the libraries' own vectors: `python -m tests.benchmarks.environments`.

Prints a line of JSON for each row, and one with the birth certificate. A figure is the median over ROUNDS blocks, the
contestants taking turns, of microseconds per step of all environments; beside it the quartiles of the blocks.

- stepping: `Environments.step`, and a bare loop of `step` on gymnasium's own vector class or on EnvPool, with the same
  random actions. Their ratio is claimed to be at most 1.2.
- slow: environments that keep a core busy, and MuJoCo: one after the other, workers, and gymnasium's AsyncVectorEnv.
- halves: workers without and with double-buffered sampling, beside a policy that acts on a core or waits for a device.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np

from harness.envs import Environments, EnvSettings, make_environment, make_environments
from tests.benchmarks.machine import Watch

ROUNDS = 9
WORKERS = 2
BUSY = "tests.environments:Busy-v0"
STEPPING = [("CartPole-v1", 4), ("CartPole-v1", 64), ("Pendulum-v1", 64), ("Acrobot-v1", 64), ("LunarLander-v3", 64)]
NEEDS = {"LunarLander-v3": "Box2D", "HalfCheetah-v5": "mujoco"}
Step = Callable[[np.ndarray], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="stepping,slow,halves", help="which, by comma")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each contestant")
    args = parser.parse_args()
    rows = {"stepping": stepping, "slow": slow, "halves": halves}
    with Watch() as watch:
        for name in args.rows.split(","):
            rows[name](args.seconds)
    tell(birth=asdict(watch.birth("python -m tests.benchmarks.environments")))


def tell(**row: Any) -> None:
    print(json.dumps(row), flush=True)


def stepping(seconds: float) -> None:
    for env_id, count in STEPPING:
        backend = "native" if env_id == "CartPole-v1" else "envpool"
        if backend == "envpool" and not find_spec("envpool"):
            continue
        envs = made(env_id, count, backend)
        bare = bare_vector(envs)
        bare.reset()
        figures = compare({"harness": envs.step, "bare": bare.step}, envs, seconds)
        ratio = round(figures["harness"]["microseconds"] / figures["bare"]["microseconds"], 2)
        tell(row="stepping", env=env_id, count=count, backend=backend, figures=figures, ratio=ratio)
        envs.close()


def slow(seconds: float, count: int = 8) -> None:
    for env_id, kwargs in [(BUSY, {"seconds": 2e-4}), (BUSY, {"seconds": 2e-3}), ("HalfCheetah-v5", {})]:
        if not find_spec(NEEDS.get(env_id, "gymnasium")):
            continue
        settings = EnvSettings(id=env_id, kwargs=kwargs)
        makers = [lambda: make_environment(settings)] * count
        vectors = {name: made(env_id, count, name, kwargs=kwargs) for name in ("sync", "workers")}
        apart = gym.vector.AsyncVectorEnv(makers, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)
        apart.reset(seed=0)
        steps = {**{name: envs.step for name, envs in vectors.items()}, "AsyncVectorEnv": apart.step}
        figures = compare(steps, vectors["sync"], seconds)  # type: ignore[arg-type]
        tell(row="slow", env=env_id, kwargs=kwargs, count=count, workers=WORKERS, figures=figures)
        apart.close()
        for envs in vectors.values():
            envs.close()


def halves(seconds: float, count: int = 8) -> None:
    kinds = {"on a core": busy, "on a device": time.sleep}
    for step, act, (where, wait) in itertools.product([2e-4, 2e-3], [2e-4, 1e-3], kinds.items()):
        groups = {
            name: made(BUSY, count, "workers", kwargs={"seconds": step}, double_buffer=name) for name in ("off", "on")
        }
        loops: dict[str, Step] = {f"double_buffer {name}": loop_of(envs, wait, act) for name, envs in groups.items()}
        figures = compare(loops, groups["on"], seconds)
        gain = figures["double_buffer off"]["microseconds"] / figures["double_buffer on"]["microseconds"]
        tell(
            row="halves",
            step_ms=1e3 * step,
            act_ms=1e3 * act,
            acts=where,
            count=count,
            figures=figures,
            gain=round(gain, 2),
        )
        for envs in groups.values():
            envs.close()


def made(env_id: str, count: int, backend: str, **settings: Any) -> Environments:
    """Environments that have begun their episodes."""
    table = {"id": env_id, "count": count, "backend": backend, "workers": WORKERS, "double_buffer": "off", **settings}
    envs = make_environments(EnvSettings.model_validate(table), 0, 1)
    envs.reset(0)
    return envs


def bare_vector(envs: Environments) -> Any:
    """gymnasium's own class, or EnvPool with as many threads."""
    if envs.backend == "native":
        return gym.make_vec(envs.settings.id, num_envs=envs.count, vectorization_mode="vector_entry_point")
    import envpool

    threads = envs.vector.threads  # type: ignore[attr-defined]
    return envpool.make(envs.settings.id, "gymnasium", num_envs=envs.count, num_threads=threads, seed=0)


def loop_of(envs: Environments, wait: Callable[[float], object], seconds: float) -> Step:
    """A step of all environments as `PPO.collect` makes it; acting takes so long for each group."""
    sent = False

    def step(actions: np.ndarray) -> None:
        nonlocal sent
        for group, rows in enumerate(envs.groups):
            if sent:
                envs.receive(group)
            wait(seconds)
            envs.send(actions[rows], group)
        sent = True

    return step


def busy(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def compare(steps: dict[str, Step], envs: Environments, seconds: float) -> dict[str, dict[str, Any]]:
    """Microseconds of each contestant's step, median and quartiles over the rounds, in which all take turns."""
    envs.action_space.seed(0)
    actions = [np.stack([envs.action_space.sample() for _ in range(envs.count)]) for _ in range(64)]
    counts, blocks = {}, {name: [] for name in steps}  # type: ignore[var-annotated]
    for name, step in steps.items():
        block_seconds(step, actions, 5)
        counts[name] = max(5, int(seconds / ROUNDS / block_seconds(step, actions, 5)))
    for _ in range(ROUNDS):
        for name, step in steps.items():
            blocks[name].append(1e6 * block_seconds(step, actions, counts[name]))
    figures = {}
    for name, found in blocks.items():
        low, middle, high = np.quantile(found, [0.25, 0.5, 0.75]).round(1)
        figures[name] = {"microseconds": float(middle), "quartiles": [float(low), float(high)]}
    return figures


def block_seconds(step: Step, actions: list[np.ndarray], count: int) -> float:
    turn = itertools.cycle(actions)
    began = time.perf_counter()
    for _ in range(count):
        step(next(turn))
    return (time.perf_counter() - began) / count


if __name__ == "__main__":
    main()
