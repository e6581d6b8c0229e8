"""Stable-Baselines3's PPO, as its documentation starts it, on as many environments, minibatches and epochs as ours."""

from __future__ import annotations

import argparse

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from harness.files import write_json
from tests.benchmarks.timing import arguments_of, iterations_per_second


def build(args: argparse.Namespace) -> PPO:
    return PPO(
        "MlpPolicy",
        make_vec_env(args.env, args.envs, seed=args.seed),
        n_steps=args.steps,
        batch_size=args.minibatch,
        n_epochs=args.epochs,
        policy_kwargs={"net_arch": {"pi": args.hidden, "vf": args.hidden}},
        seed=args.seed,
        device="cpu",
    )


def main() -> None:
    args = arguments_of(__doc__).parse_args()
    torch.set_num_threads(1)
    samples = args.steps * args.envs
    model = build(args)

    def run(iterations: int) -> None:
        model.learn(iterations * samples, log_interval=1_000_000, reset_num_timesteps=False)

    speed = iterations_per_second(run, args.seconds)
    write_json(args.json, {"env_steps_per_second": speed * samples})


if __name__ == "__main__":
    main()
