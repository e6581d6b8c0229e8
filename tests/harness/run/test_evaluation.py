"""A run's evaluations, epochs and starts: what they hear, what they keep, where they play and what they tell."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

import harness as package
from harness.__main__ import main
from harness.config import load_run_config, resolve
from harness.envs.limits import LONGEST
from harness.errors import BadInput
from harness.files import read_json
from harness.lifecycle.checkpoints import checkpoint
from harness.training import listening
from tests.environments import Line
from tests.evaluated import Lone, SlowToMake

HERE = "tests.harness.run.test_evaluation"
LINE, FOREVER = "tests.environments:Line-v0", "tests.evaluated:EvaluatedForever-v0"
PPO = {"name": "ppo", "rollout_steps": 16, "minibatch_size": 16, "epochs": 2}
DQN = {"name": "dqn", "buffer_size": 400, "learning_starts": 16, "batch_size": 8, "train_freq": 8}


def toml(folder: Path, env: dict[str, Any], algorithm: dict[str, Any], steps: int = 96, **evaluation: Any) -> str:
    table = {
        "run": {"name": "run", "steps": steps},
        "env": {"count": 2, "backend": "sync", **env},
        "algorithm": algorithm,
        "network": {"hidden": [8]},
        "compile": {"mode": "off"},
        "logging": {"tensorboard": False},
        "evaluation": {"count": 3, "episodes": 3, "final_episodes": 4, **evaluation},
    }
    path = folder / "run.toml"
    path.write_text(resolve(table).to_toml())
    return str(path)


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def state(run_dir: Path) -> dict[str, Any]:
    found = checkpoint.load(run_dir / "checkpoints" / "latest")
    assert found is not None
    return found.state


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or one != one


@pytest.mark.parametrize("algorithm", [PPO, DQN], ids=["ppo", "dqn"])
def test_an_evaluation_without_end_hears_a_stop_and_is_made_again(algorithm: dict[str, Any], tmp_path: Path) -> None:
    config = toml(tmp_path, {"id": FOREVER}, algorithm)
    stopped = package.train(config, output=tmp_path / "run")
    assert stopped.status == "stopped"
    assert stopped.reason == "stop requested (SIGTERM) in an evaluation, which is made again when the run goes on"
    assert stopped.env_steps == (32 if algorithm is PPO else 96), "what was trained is kept"
    short = ["evaluation.max_steps=20"]
    done = package.train(config, short, output=tmp_path / "run")
    whole = package.train(config, short, output=tmp_path / "whole")
    assert done.status == whole.status == "done" and done.value == whole.value and done.env_steps == 96
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    assert same(state(tmp_path / "run"), state(tmp_path / "whole"))


def test_the_final_evaluation_hears_it_too(tmp_path: Path) -> None:
    config = toml(tmp_path, {"id": FOREVER}, PPO, count=1, episodes=1)
    overrides = ["evaluation.max_steps=499"]
    stopped = package.train(config, [*overrides, "env.kwargs={at = 400}"], output=tmp_path / "one")
    assert stopped.status == "stopped" and stopped.env_steps == 96
    assert package.train(config, [*overrides, "env.kwargs={at = 600}"], output=tmp_path / "two").status == "done"


def test_a_limit_of_ours_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = toml(tmp_path, {"id": LINE}, PPO)
    package.train(config, output=tmp_path / "run")
    assert "has no time limit" not in capsys.readouterr().out
    gym.register("Unlimited-v0", Line)
    package.train(toml(tmp_path, {"id": "Unlimited-v0"}, PPO), output=tmp_path / "other")
    line = f"Unlimited-v0 has no time limit: episodes of evaluations are cut after {LONGEST:,} steps"
    assert line in capsys.readouterr().out
    package.train(toml(tmp_path, {"id": LINE}, PPO, max_steps=5), output=tmp_path / "cut")
    assert "3 of 3 episodes of an evaluation were cut after 5 steps (evaluation.max_steps)" in capsys.readouterr().out


@pytest.mark.parametrize("algorithm", [PPO, DQN], ids=["ppo", "dqn"])
@pytest.mark.parametrize("backend", ["sync", "native"])
def test_training_goes_on_in_lent_environments_as_if_nothing_had_been(
    backend: str, algorithm: dict[str, Any], tmp_path: Path
) -> None:
    own, lent = (
        toml(tmp_path, {"id": "CartPole-v1", "backend": backend}, algorithm, environments=where)
        and package.train(str(tmp_path / "run.toml"), output=tmp_path / where)
        for where in ("own", "training")
    )
    assert own.status == lent.status == "done"
    curves = [
        [{name: line[name] for name in line if not name.startswith("eval")} for line in metrics(tmp_path / each)]
        for each in ("own", "training")
    ]
    assert curves[0] == curves[1]
    assert same(state(tmp_path / "own"), state(tmp_path / "training"))


@pytest.mark.parametrize("algorithm", [PPO, DQN], ids=["ppo", "dqn"])
def test_a_simulator_that_is_open_once_is_evaluated_where_it_trains_and_resumes(
    algorithm: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = toml(tmp_path, {"id": "tests.evaluated:EvaluatedLone-v0"}, algorithm)
    with pytest.raises(BadInput, match="no other '.*EvaluatedLone-v0' can .*still in use.*; it may be 'training'"):
        package.train(config, output=tmp_path / "refused")
    assert Lone.open_now == 0
    lent = ["evaluation.environments=training"]
    result = package.train(config, lent, output=tmp_path / "whole")
    assert result.status == "done" and result.eval_episodes == 4 and Lone.open_now == 0
    assert capsys.readouterr().out.count("after each evaluation training begins new episodes") == 1
    if algorithm is PPO:  # nothing of which follows from the budget
        package.train(config, [*lent, "run.steps=64", "evaluation.count=2"], output=tmp_path / "parts")
        more = package.train(config, lent, output=tmp_path / "parts")
        assert (more.env_steps, more.value) == (96, result.value)
        assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    policy = package.evaluate(tmp_path / "whole", episodes=5)
    assert len(policy.returns) == 5 and Lone.open_now == 0


@pytest.mark.parametrize("algorithm", [PPO, DQN], ids=["ppo", "dqn"])
@pytest.mark.parametrize("backend", ["sync", "workers"])
def test_metrics_of_infos_are_told_of_training_and_evaluations(
    backend: str, algorithm: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = {"id": "tests.evaluated:EvaluatedTold-v0", "backend": backend, "info_metrics": ["is_success", "nowhere"]}
    config = toml(tmp_path, env, algorithm)
    assert main(["train", config, "--output", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert out.count("no episode of an evaluation had 'nowhere' in its last info") == 1
    lines = metrics(tmp_path / "run")
    ended = [line for line in lines if "episodes" in line]
    assert ended and all(0 <= line["is_success_mean"] <= 1 and "nowhere_mean" not in line for line in ended)
    assert all(line["eval_is_success_mean"] in (0, 1) or 0 < line["eval_is_success_mean"] < 1 for line in lines[-1:])
    result = read_json(tmp_path / "run" / "result.json")
    assert list(result["eval_metrics"]) == ["is_success_mean"]
    assert f"is_success {result['eval_metrics']['is_success_mean']:.4g}" in out
    assert list(package.evaluate(tmp_path / "run", episodes=3).metrics) == ["is_success"]


def test_names_that_are_metrics_already_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="env.info_metrics .*return_mean is a metric of its own"):
        toml(tmp_path, {"id": LINE, "info_metrics": ["return"]}, PPO)


def test_evaluations_may_draw_their_actions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = {}
    for name, algorithm, env in (
        ("ppo", PPO, LINE),
        ("dqn", {**DQN, "exploration_final_eps": 0.5}, LINE),
        ("sac", {**DQN, "name": "sac"}, "Pendulum-v1"),
        ("td3", {**DQN, "name": "td3"}, "Pendulum-v1"),
    ):
        for drawn in ("true", "false", "false"):
            config = toml(tmp_path, {"id": env}, algorithm, max_steps=30)
            folder = tmp_path / f"{name}-{len(results)}"
            result = package.train(config, [f"evaluation.deterministic={drawn}"], output=folder)
            results.setdefault(name, []).append(result.value)
    for name, (likeliest, drawn, again) in results.items():
        assert drawn == again, name
        assert (likeliest == drawn) == (name == "td3"), name
    run = str(tmp_path / "ppo-0")
    assert main(["evaluate", run, "--episodes", "4"]) == 0
    assert main(["evaluate", run, "--episodes", "4", "--stochastic"]) == 0
    one, other = capsys.readouterr().out.splitlines()[-2:]
    assert one != other and "over 4 episodes" in one and "over 4 episodes" in other


def test_a_policy_takes_a_single_observation_too(tmp_path: Path) -> None:
    package.train(toml(tmp_path, {"id": LINE}, PPO), output=tmp_path / "run")
    policy = package.load_policy(tmp_path / "run")
    seen = np.linspace(-1, 1, 12).reshape(6, 2)
    actions = policy(seen)
    assert actions.shape == (6,) and [int(policy(row)) for row in seen] == actions.tolist()
    assert policy(seen[0]).shape == () and policy(seen.tolist()[0]) == actions[0]
    drawn = {int(policy(seen[0], deterministic=False)) for _ in range(60)}
    assert drawn == {0, 1}
    with pytest.raises(ValueError, match=r"shape \(n, 2\), or a single one of shape \(2,\), got \(3,\)"):
        policy(np.zeros(3))


def test_the_command_that_evaluates_hears_a_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = toml(tmp_path, {"id": FOREVER, "kwargs": {"at": 60}}, PPO, max_steps=50)
    package.train(config, output=tmp_path / "run")
    text = (tmp_path / "run" / "config.toml").read_text().replace("max_steps = 50", "max_steps = 10_000_000")
    (tmp_path / "run" / "config.toml").write_text(text)
    assert main(["evaluate", str(tmp_path / "run"), "--episodes", "3"]) == 75
    assert "stopped (SIGTERM) after 0 of 3 episodes" in capsys.readouterr().out


def test_a_failure_on_one_rank_ends_in_the_lines_of_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = {"id": "tests.environments:Broken-v0", "kwargs": {"rank": 0, "at": 18}}
    assert main(["train", toml(tmp_path, env, PPO), "--output", str(tmp_path / "run")]) == 1
    captured = capsys.readouterr()
    failed, files = captured.out.splitlines()[-2:]
    assert failed.startswith("failed: RuntimeError: the environment broke on purpose; 32 steps in ")
    assert files == f"files: {tmp_path / 'run'}" and "Traceback" in captured.err


def test_an_environment_that_leaves_has_failed_whatever_its_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = toml(tmp_path, {"id": "tests.evaluated:EvaluatedLeaving-v0"}, PPO)
    assert main(["train", config, "--output", str(tmp_path / "run")]) == 1
    assert "failed: SystemExit: 0; 0 steps in " in capsys.readouterr().out
    assert read_json(tmp_path / "run" / "result.json")["status"] == "failed"


def test_a_failure_before_the_first_step_leaves_its_result_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise OSError("no such device")

    monkeypatch.setattr("harness.run.loop.keep_freed_memory", broken)
    assert main(["train", toml(tmp_path, {"id": LINE}, PPO), "--output", str(tmp_path / "run")]) == 1
    assert "failed: OSError: no such device; 0 steps in " in capsys.readouterr().out


def test_a_start_hears_a_stop_wherever_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = toml(tmp_path, {"id": "tests.evaluated:EvaluatedSlowToMake-v0"}, PPO)
    SlowToMake.made = 0
    assert main(["train", config, "--output", str(tmp_path / "run")]) == 75
    assert "stopped: stop requested (SIGTERM) at the start, before this attempt trained" in capsys.readouterr().out
    assert SlowToMake.made == 3
    again = package.train(str(tmp_path / "run.toml"), output=tmp_path / "run")
    assert again.status == "done", "it is the same run"


class Points(Dataset):
    """Eight classes that are easy to tell apart; the process gets SIGTERM when sample 40 is asked for the 2nd time."""

    classes = list("abcdefgh")
    asked = 0

    def __init__(self, length: int, stops: bool = False) -> None:
        draws = np.random.default_rng(length)
        self.targets = draws.integers(0, 8, length)
        self.inputs = (np.eye(8)[self.targets] + 0.3 * draws.standard_normal((length, 8))).astype(np.float32)
        self.stops = stops

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        if self.stops and index == 40:
            Points.asked += 1
            if Points.asked == 2:
                os.kill(os.getpid(), signal.SIGTERM)
        return self.inputs[index], int(self.targets[index])


class Classifier(torch.nn.Sequential):
    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        layers = torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.Dropout(0.3), torch.nn.Linear(16, classes)
        super().__init__(*layers)


def points() -> tuple[Points, Points, Points]:
    return Points(200, stops=True), Points(60), Points(61)


def test_an_epoch_hears_a_stop_and_goes_on_at_its_next_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "LISTEN_SECONDS", 0.0)  # at each batch, however quick they are
    (tmp_path / "points.toml").write_text(f"""
[algorithm]
name = "supervised"
dataset = "{HERE}:points"
epochs = 3
batch_size = 8
[network]
class = "{HERE}:Classifier"
[logging]
tensorboard = false
""")
    config = load_run_config(str(tmp_path / "points.toml"))
    Points.asked = 10
    whole = package.train(config, output=tmp_path / "whole")
    Points.asked = 0
    stopped = package.train(config, output=tmp_path / "parts")
    assert stopped.status == "stopped" and 200 < stopped.env_steps < 400, "in the middle of the second epoch"
    assert stopped.env_steps % 8 == 0 and stopped.gradient_steps == stopped.env_steps // 8
    done = package.train(config, output=tmp_path / "parts")
    assert (done.status, done.env_steps, done.gradient_steps) == ("done", 600, 75)
    assert done.value == whole.value and same(state(tmp_path / "parts"), state(tmp_path / "whole"))
    for one, other in zip(metrics(tmp_path / "parts"), metrics(tmp_path / "whole"), strict=True):
        assert one.pop("loss") == pytest.approx(other.pop("loss"), rel=1e-12)
        assert one == other
