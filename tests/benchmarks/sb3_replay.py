"""Stable-Baselines3's DQN or SAC, by the settings of one of this project's presets."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.env_util import make_vec_env

from harness.algorithms.settings.off_policy import DQNSettings, OffPolicySettings, SACSettings
from harness.config import load_run_config
from harness.files import write_json
from harness.schema import RunConfig
from tests.benchmarks.timing import iterations_per_second

ACTIVATIONS = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}
ROUNDS = 64
"""Environment steps of an iteration that is timed, or a round of more."""


def build(config: RunConfig) -> DQN | SAC:
    settings, env, network = config.algorithm, config.env, config.network
    assert isinstance(settings, OffPolicySettings) and env is not None
    common: dict[str, Any] = {
        "env": make_vec_env(env.id, env.count, seed=config.seed),
        "learning_rate": config.optimizer.lr,
        "buffer_size": settings.buffer_size,
        "learning_starts": settings.learning_starts,
        "batch_size": settings.batch_size,
        "gamma": settings.gamma,
        "train_freq": settings.train_freq // env.count,
        "gradient_steps": settings.gradient_steps,
        "policy_kwargs": {"net_arch": network.hidden, "activation_fn": ACTIVATIONS[network.activation]},
        "target_update_interval": getattr(settings, "target_update_interval"),
        "seed": config.seed,
        "device": "cpu",
    }
    if isinstance(settings, DQNSettings):
        return DQN(
            "MlpPolicy",
            exploration_fraction=settings.exploration_fraction,
            exploration_initial_eps=settings.exploration_initial_eps,
            exploration_final_eps=settings.exploration_final_eps,
            max_grad_norm=settings.max_grad_norm,
            **common,
        )
    assert isinstance(settings, SACSettings)
    if settings.gsde:
        common["policy_kwargs"]["log_std_init"] = settings.log_std_init
        common["sde_sample_freq"] = settings.sde_sample_freq or -1
    return SAC(
        "MlpPolicy",
        tau=settings.tau,
        ent_coef=settings.temperature or f"auto_{settings.initial_temperature}",
        use_sde=settings.gsde,
        **common,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset", help="a preset of this project")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long to measure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--json", type=Path, required=True, help="where rank 0 writes its figures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = load_run_config(args.preset, [*args.overrides, f"seed={args.seed}"])
    assert isinstance(config.algorithm, OffPolicySettings)
    samples = max(ROUNDS, config.algorithm.train_freq)
    model = build(config)

    def run(iterations: int) -> None:
        model.learn(iterations * samples, log_interval=1_000_000, reset_num_timesteps=False)

    model.learn(config.algorithm.batch_size, log_interval=1_000_000)
    speed = iterations_per_second(run, args.seconds)
    write_json(args.json, {"env_steps_per_second": speed * samples})


if __name__ == "__main__":
    main()
