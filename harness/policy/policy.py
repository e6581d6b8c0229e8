"""A trained policy, loaded from its run's directory: to act with, or to be evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from harness.algorithms import Context, algorithm_class
from harness.config import load_run_config
from harness.distributed.transports.base import Alone
from harness.envs import Environments, make_environments
from harness.errors import BadInput
from harness.lifecycle.checkpoints import checkpoint
from harness.reporting import PhaseTimer
from harness.schema import CompileSettings, RunConfig

Which = Literal["latest", "best"]


class Policy:
    """`policy(observations)`: observations (n, *obs_shape), or a single one (*obs_shape), to the deterministic actions
    (n, …), or the single one, as the environment takes them."""

    def __init__(self, config: RunConfig, state: dict, env_steps: int = 0) -> None:
        """`env_steps`: that it was trained for."""
        assert config.env is not None
        self.env_steps = env_steps
        eager = CompileSettings(mode="off")
        self.config = config.model_copy(update={"algorithm": config.algorithm.for_acting(), "compile": eager})
        one = config.env.model_copy(update={"count": 1, "backend": "sync"})
        self.environments: Environments = make_environments(one, 0, 1)
        context = Context(
            self.config,
            Alone(),
            torch.device("cpu"),
            PhaseTimer(),
            self.environments,
            lambda act, n, final: np.zeros(0),
        )
        self.algorithm = algorithm_class(config.algorithm.name)(context)
        self.algorithm.load_state(state)
        self.algorithm.close()
        self.generator = np.random.default_rng(config.seed)
        self.drawn_from = self.algorithm.drawn_from

    def __call__(self, observations: np.ndarray, deterministic: bool = True) -> np.ndarray:
        """`deterministic`: the likeliest actions; off: drawn as in training, where the policy draws any."""
        space = self.environments.observation_space
        seen = np.asarray(observations)
        single = seen.shape == space.shape
        if not single and seen.shape[1:] != space.shape:
            raise ValueError(
                f"observations must be of shape (n, {', '.join(map(str, space.shape))}), or a single one of shape "
                f"{space.shape}, got {seen.shape}"
            )
        batch = seen[None] if single else seen
        drawn = None
        if not deterministic and self.drawn_from is not None:
            drawn = np.stack([self.drawn_from.draw(self.generator) for _ in batch])
        actions = self.act(batch.astype(space.dtype, copy=False), drawn)
        return actions[0] if single else actions

    def act(self, observations: np.ndarray, drawn: np.ndarray | None) -> np.ndarray:
        """Actions for observations (n, *obs_shape), by random numbers where they are `drawn` by these."""
        seen = self.environments.normalize(observations)
        return self.algorithm.act_deterministic(seen) if drawn is None else self.algorithm.act_sampled(seen, drawn)


def load_run(run_dir: Path | str, which: Which = "latest") -> Policy:
    """The last or the best policy of a run; BadInput where the directory holds none."""
    run_dir = Path(run_dir)
    if not (run_dir / "config.toml").is_file():
        raise BadInput(f"{run_dir} is no run's directory: it has no config.toml")
    config = load_run_config(str(run_dir / "config.toml"))
    if config.env is None:
        raise BadInput(f"{run_dir} holds a run of {config.algorithm.name}, which has no policy")
    found = checkpoint.load(run_dir / "checkpoints" / which, state_alone=True)
    if found is None:
        raise BadInput(f"{run_dir}/checkpoints/{which}: no whole checkpoint there")
    return Policy(config, found.state, int(found.progress.get("env_steps", 0)))
