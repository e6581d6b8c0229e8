"""`evaluate(RUN_DIR)`, `evaluate("policy.onnx", env="CartPole-v1")`: a trained policy's returns over episodes with
seeds of their own. Of a file without torch in the process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness.envs.evaluation import Act, Noise, episode_seeds
from harness.envs.limits import longest_episode
from harness.envs.players import AT_ONCE, SeparateEnvironments, separate_environments
from harness.envs.returns import Evaluation
from harness.envs.settings import EnvSettings
from harness.errors import BadInput
from harness.policy.card import refuse_other_spaces
from harness.policy.load import is_onnx, load_policy
from harness.policy.onnx_policy import OnnxPolicy

if TYPE_CHECKING:
    from harness.policy.policy import Policy

Stop = Callable[[], bool]


def evaluate(
    path: Path | str,
    episodes: int = 100,
    seed: int | None = None,
    which: Literal["latest", "best"] = "latest",
    video: bool = False,
    deterministic: bool | None = None,
    stop: Stop = lambda: False,
    env: str | EnvSettings | None = None,
) -> Evaluation:
    """Whole episodes of the policy of a run or of a file FILE.onnx, with seeds that training and its own evaluations
    never used.

    `seed` gives other episodes; `video` also writes the first of them to RUN_DIR/video.mp4. `deterministic`: as the
    run's `evaluation.deterministic`, which it is where it is None. Episodes are cut, and environments made, as the
    run's `evaluation` says. `stop` is asked several times a second; once it is true, the evaluation is that of the
    episodes that are over (of none, a mean of NaN). `env`: where a file is to act: an id, or settings; for a run it is
    the run's own.
    """
    policy = load_policy(path, which)
    if isinstance(policy, OnnxPolicy):
        if video:
            raise BadInput("--video is for a run's directory, got a file")
        return of_file(policy, episodes, seed, deterministic is not False, stop, env)
    if env is not None:
        raise BadInput("--env is for a file FILE.onnx; a run is evaluated in its own environment")
    return of_run(policy, Path(path), episodes, seed, video, deterministic, stop)


def of_run(
    policy: Policy, run_dir: Path, episodes: int, seed: int | None, video: bool, deterministic: bool | None, stop: Stop
) -> Evaluation:
    settings, evaluation = policy.config.env, policy.config.evaluation
    assert settings is not None
    if deterministic is None:
        deterministic = evaluation.deterministic
    seeds = episode_seeds(policy.config.seed if seed is None else seed, "command", episodes)
    if video:  # first: it can fail, and the episodes take their time
        from harness.policy.video import film

        film(policy, seeds[0], run_dir / "video.mp4", longest_episode(settings, evaluation.max_steps), stop)
    at_once = evaluation.at_once if evaluation.environments == "own" else min(evaluation.at_once, settings.count)
    players = separate_environments(settings, None, at_once)
    return play(players, policy.act, seeds, evaluation.max_steps, None if deterministic else policy.drawn_from, stop)


def of_file(
    policy: OnnxPolicy, episodes: int, seed: int | None, deterministic: bool, stop: Stop, env: str | EnvSettings | None
) -> Evaluation:
    if env is None:
        raise BadInput(f"--env ID is missing: where {policy.path} is to act; it was trained in {policy.card.env['id']}")
    settings = env if isinstance(env, EnvSettings) else env_settings(env)
    seeds = episode_seeds(policy.card.seed if seed is None else seed, "command", episodes)
    players = separate_environments(settings, None, AT_ONCE)
    made = players.make()
    try:
        refuse_other_spaces(policy.card, settings.id, made.observation_space, made.action_space, str(policy.path))
    except BadInput:
        players.close()
        raise
    noise = None if deterministic else policy.drawn_from
    return play(players, policy.act, seeds, policy.card.max_steps, noise, stop)


def play(
    players: SeparateEnvironments, act: Act, seeds: list[int], max_steps: int | None, noise: Noise | None, stop: Stop
) -> Evaluation:
    try:
        env = players.envs[0].env if players.envs else players.make()
        players.max_steps = longest_episode(players.settings, max_steps, env)
        played = players.play(act, seeds, lambda busy: busy and not stop(), noise)
    finally:
        players.close()
    return Evaluation(played.returns, played.metrics, played.cut)


def env_settings(name: str) -> EnvSettings:
    """Of a gymnasium id; or the `env` section of a run's directory or of a TOML file, with its wrappers and arguments.
    (Never those that a file itself names: who reads a file need not trust it.)"""
    path = Path(name)
    if path.is_dir():
        path = path / "config.toml"
    if path.suffix != ".toml" or not path.is_file():
        return EnvSettings.model_validate({"id": name})
    from harness.settings import load_toml, validate

    return validate(EnvSettings, load_toml(path).get("env", {}), str(path), "env")


def environment_notice(path: Path | str, env: str | None) -> str | None:
    """A line where a file's policy was trained with more than the environment has that it is to act in."""
    policy = load_policy(path) if is_onnx(path) and env is not None else None
    if not isinstance(policy, OnnxPolicy) or env is None:
        return None
    acts_in = env_settings(env)
    trained = {name: policy.card.env.get(name) or None for name in ("id", "kwargs", "wrappers", "reset_options")}
    here = {name: getattr(acts_in, name) or None for name in trained}
    other = ", ".join(f"env.{name} = {value!r}" for name, value in trained.items() if value != here[name])
    return f"trained with {other}; --env RUN_DIR or FILE.toml takes all of a run's `env`" if other else None
