"""`evaluate(RUN_DIR)`: a trained policy's returns over episodes with seeds of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harness.algorithms import Evaluation
from harness.distributed.transports.base import Alone
from harness.envs.evaluation import episode_seeds
from harness.envs.limits import longest_episode
from harness.envs.players import SeparateEnvironments
from harness.policy.policy import Which, load_policy
from harness.policy.video import film


def evaluate(
    run_dir: Path | str,
    episodes: int = 100,
    seed: int | None = None,
    which: Which = "latest",
    video: bool = False,
    deterministic: bool | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Whole episodes of a run's policy, with seeds that training and its own evaluations never used.

    `seed` gives other episodes; `video` also writes the first of them to RUN_DIR/video.mp4. `deterministic`: as the
    run's `evaluation.deterministic`, which it is where it is None. Episodes are cut, and environments made, as the
    run's `evaluation` says. `stop` is asked several times a second; once it is true, the evaluation is that of the
    episodes that are over (of none, a mean of NaN).
    """
    policy = load_policy(run_dir, which)
    settings, evaluation = policy.config.env, policy.config.evaluation
    assert settings is not None
    if deterministic is None:
        deterministic = evaluation.deterministic
    seeds = episode_seeds(policy.config.seed if seed is None else seed, "command", episodes)
    max_steps = longest_episode(settings, evaluation.max_steps)
    if video:  # first: it can fail, and the episodes take their time
        film(policy, seeds[0], Path(run_dir) / "video.mp4", max_steps, stop)
    at_once = evaluation.at_once if evaluation.environments == "own" else min(evaluation.at_once, settings.count)
    players = SeparateEnvironments(settings, Alone(), at_once)
    try:
        players.max_steps = longest_episode(settings, evaluation.max_steps, players.make())

        def listen(busy: bool) -> bool:
            return busy and not stop()

        played = players.play(policy.act, seeds, listen, None if deterministic else policy.algorithm.drawn_from)
    finally:
        players.close()
    return Evaluation(played.returns, played.metrics, played.cut)
