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
from harness.policy.base import CallablePolicy
from harness.reporting import PhaseTimer
from harness.schema import CompileSettings, RunConfig

Which = Literal["latest", "best"]


class Policy(CallablePolicy):
    """A run's policy, with the environments' normalisation."""

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
        space = self.environments.observation_space
        self.shape, self.dtype = space.shape, space.dtype
        self.generator = np.random.default_rng(config.seed)
        self.drawn_from = self.algorithm.drawn_from

    def act(self, observations: np.ndarray, drawn: np.ndarray | None = None) -> np.ndarray:
        seen = self.environments.normalize(observations.astype(self.dtype, copy=False))
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
