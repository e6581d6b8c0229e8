"""A script as users of Stable-Baselines3 write it: rl-baselines3-zoo's settings for one environment, 100,000 steps or
its budget, and 100 episodes of the final policy."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

JOBS: dict[str, tuple[Any, str, int, int, dict[str, Any]]] = {
    "ppo-cartpole": (
        PPO,
        "CartPole-v1",
        8,
        100_000,
        {
            "n_steps": 32,
            "batch_size": 256,
            "gae_lambda": 0.8,
            "gamma": 0.98,
            "n_epochs": 20,
            "ent_coef": 0.0,
            "learning_rate": lambda left: 1e-3 * left,
            "clip_range": lambda left: 0.2 * left,
        },
    ),
    "ppo-acrobot": (
        PPO,
        "Acrobot-v1",
        16,
        1_000_000,
        {"n_steps": 256, "gae_lambda": 0.94, "gamma": 0.99, "n_epochs": 4, "ent_coef": 0.0},
    ),
    "dqn-cartpole": (
        DQN,
        "CartPole-v1",
        1,
        50_000,
        {
            "learning_rate": 2.3e-3,
            "batch_size": 64,
            "buffer_size": 100_000,
            "learning_starts": 1000,
            "gamma": 0.99,
            "target_update_interval": 10,
            "train_freq": 256,
            "gradient_steps": 128,
            "exploration_fraction": 0.16,
            "exploration_final_eps": 0.04,
            "policy_kwargs": {"net_arch": [256, 256]},
        },
    ),
    "sac-pendulum": (SAC, "Pendulum-v1", 1, 20_000, {"learning_rate": 1e-3}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    method, env_id, count, steps, settings = JOBS[args.job]
    torch.set_num_threads(1)
    model = method("MlpPolicy", make_vec_env(env_id, count, seed=args.seed), seed=args.seed, device="cpu", **settings)
    model.learn(steps)
    mean, std = evaluate_policy(model, make_vec_env(env_id, 1, seed=args.seed + 1000), n_eval_episodes=100)
    print(f"return {mean:.1f} ± {std:.1f} over 100 episodes")


if __name__ == "__main__":
    main()
