"""What stepping environments costs, beside the libraries' own vectors: `python -m tests.benchmarks.environments`.

Prints a line of JSON for each row, and one with the birth certificate. A figure is the median over blocks, the
contestants taking turns, of microseconds per step of all environments; beside it the quartiles of the blocks. With
`--json FILE` the rows of stepping are written for `make bench`, a value for each block.

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
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from harness.envs import Environments, EnvSettings, make_environment, make_environments
from harness.files import write_json
from tests.benchmarks.machine import Watch

WORKERS = 2
BUSY = "tests.environments:Busy-v0"
STEPPING = [("CartPole-v1", 4), ("CartPole-v1", 64), ("Pendulum-v1", 64), ("Acrobot-v1", 64), ("LunarLander-v3", 64)]
NEEDS = {"LunarLander-v3": "Box2D", "HalfCheetah-v5": "mujoco"}
Step = Callable[[np.ndarray], object]
Compare = Callable[[dict[str, Step], Environments], dict[str, dict[str, Any]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help="of stepping, slow and halves, by comma; all, or with --json stepping alone")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each contestant")
    parser.add_argument("--rounds", type=int, default=9, help="blocks of each contestant")
    parser.add_argument("--seed", type=int, default=0, help="of no use here")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = {"stepping": stepping, "slow": slow, "halves": halves}
    names = args.rows or ("stepping" if args.json else "stepping,slow,halves")
    with Watch() as watch:
        measured = [row for name in names.split(",") for row in rows[name](partial(compare, args.seconds, args.rounds))]
    tell(birth=asdict(watch.birth("python -m tests.benchmarks.environments")))
    if args.json:
        write_json(args.json, {"rows": measured})


def tell(**row: Any) -> None:
    print(json.dumps(row), flush=True)


def stepping(compare: Compare) -> Iterator[dict[str, Any]]:
    for letter, (env_id, count) in zip("abcdefgh", STEPPING):
        backend = "native" if env_id == "CartPole-v1" else "envpool"
        if backend == "envpool" and not find_spec("envpool"):
            continue
        envs = made(env_id, count, backend)
        bare = bare_vector(envs)
        bare.reset()
        figures = compare({"ours": envs.step, "bare": bare.step}, envs)
        ratio = round(figures["ours"]["microseconds"] / figures["bare"]["microseconds"], 2)
        tell(row="stepping", env=env_id, count=count, backend=backend, figures=figures, ratio=ratio)
        envs.close()
        of, against = "ours", f"{'gymnasium' if backend == 'native' else 'EnvPool'}, a bare loop of step"
        values = {of: figures["ours"]["blocks"], against: figures["bare"]["blocks"]}
        yield {
            "key": f"7{letter}",
            "title": f"One step of {count} environments of {env_id}",
            "unit": "us",
            "scores": [{"name": name, "command": "", "values": found} for name, found in values.items()],
            "claims": [{"of": of, "against": against, "at_most": 1.2}] if count == 64 else [],
        }


def slow(compare: Compare, count: int = 8) -> list[dict[str, Any]]:
    for env_id, kwargs in [(BUSY, {"seconds": 2e-4}), (BUSY, {"seconds": 2e-3}), ("HalfCheetah-v5", {})]:
        if not find_spec(NEEDS.get(env_id, "gymnasium")):
            continue
        settings = EnvSettings(id=env_id, kwargs=kwargs)
        makers = [lambda: make_environment(settings)] * count
        vectors = {name: made(env_id, count, name, kwargs=kwargs) for name in ("sync", "workers")}
        apart = gym.vector.AsyncVectorEnv(makers, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)
        apart.reset(seed=0)
        steps = {**{name: envs.step for name, envs in vectors.items()}, "AsyncVectorEnv": apart.step}
        figures = compare(steps, vectors["sync"])  # type: ignore[arg-type]
        tell(row="slow", env=env_id, kwargs=kwargs, count=count, workers=WORKERS, figures=figures)
        apart.close()
        for envs in vectors.values():
            envs.close()
    return []  # no rows of the table


def halves(compare: Compare, count: int = 8) -> list[dict[str, Any]]:
    kinds = {"on a core": busy, "on a device": time.sleep}
    for step, act, (where, wait) in itertools.product([2e-4, 2e-3], [2e-4, 1e-3], kinds.items()):
        groups = {
            name: made(BUSY, count, "workers", kwargs={"seconds": step}, double_buffer=name) for name in ("off", "on")
        }
        loops: dict[str, Step] = {f"double_buffer {name}": loop_of(envs, wait, act) for name, envs in groups.items()}
        figures = compare(loops, groups["on"])
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
    return []  # no rows of the table


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


def compare(seconds: float, rounds: int, steps: dict[str, Step], envs: Environments) -> dict[str, dict[str, Any]]:
    """Microseconds of each contestant's step, median and quartiles over the rounds, in which all take turns."""
    envs.action_space.seed(0)
    actions = [np.stack([envs.action_space.sample() for _ in range(envs.count)]) for _ in range(64)]
    counts, blocks = {}, {name: [] for name in steps}  # type: ignore[var-annotated]
    for name, step in steps.items():
        block_seconds(step, actions, 5)
        counts[name] = max(5, int(seconds / rounds / block_seconds(step, actions, 5)))
    for _ in range(rounds):
        for name, step in steps.items():
            blocks[name].append(1e6 * block_seconds(step, actions, counts[name]))
    figures = {}
    for name, found in blocks.items():
        low, middle, high = np.quantile(found, [0.25, 0.5, 0.75]).round(1)
        figures[name] = {
            "microseconds": float(middle),
            "quartiles": [float(low), float(high)],
            "blocks": [round(value, 1) for value in found],
        }
    return figures


def block_seconds(step: Step, actions: list[np.ndarray], count: int) -> float:
    turn = itertools.cycle(actions)
    began = time.perf_counter()
    for _ in range(count):
        step(next(turn))
    return (time.perf_counter() - began) / count


if __name__ == "__main__":
    main()
