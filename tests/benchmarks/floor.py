"""The floor under PPO's throughput: what no implementation on this machine can leave out.

Of the learner one matrix product per layer forward and two backward (by weights and by inputs), at the minibatch's
shape, for the policy's and the value's network and all minibatches of all epochs; of the environments the bare `step`
of gymnasium's own vector with actions drawn before. With `--acting` also one product per layer for each step of acting.
No bias, activation, loss, optimizer, advantage, sampling or storing.
"""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import numpy as np
import torch

from harness.files import write_json
from tests.benchmarks.timing import arguments_of, iterations_per_second


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--acting", action="store_true", help="the acting policy's products too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    envs = gym.make_vec(args.env, num_envs=args.envs)
    envs.reset(seed=args.seed)
    envs.action_space.seed(args.seed)
    actions = [envs.action_space.sample() for _ in range(args.steps)]
    seen, choices = envs.single_observation_space, envs.single_action_space
    assert isinstance(seen, gym.spaces.Box) and isinstance(choices, gym.spaces.Discrete)
    inputs, outputs = int(np.prod(seen.shape)), int(choices.n)
    networks = [[inputs, *args.hidden, last] for last in (outputs, 1)]
    samples = args.steps * args.envs
    update = products(networks, args.minibatch, backward=True)
    act = products(networks, args.envs, backward=False)

    def run(iterations: int) -> None:
        for _ in range(iterations):
            for action in actions:
                if args.acting:
                    act()
                envs.step(action)
            for _ in range(args.epochs * round(samples / args.minibatch)):
                update()

    write_json(args.json, {"env_steps_per_second": iterations_per_second(run, args.seconds) * samples})


def products(networks: list[list[int]], rows: int, backward: bool) -> Callable[[], None]:
    """A function that makes the products of one batch of `rows` samples, in memory that is there already."""
    todo: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for widths in networks:
        for inputs, outputs in zip(widths, widths[1:]):
            x, weight, y = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(rows, outputs)
            todo.append((x, weight.T, y.clone()))
            if backward:
                todo += [(y.T, x, torch.empty_like(weight)), (y, weight, torch.empty_like(x))]

    def run() -> None:
        for left, right, out in todo:
            torch.mm(left, right, out=out)

    return run


if __name__ == "__main__":
    main()
