"""One run through the real command line: its files, its repeat, its resume, its early ends."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

import harness as package
from harness.errors import BadInput
from harness.files import read_json
from harness.lifecycle.lock import DirectoryLock
from tests.command import harness

QUICK = ["run.steps=2560", "evaluation.count=5", "evaluation.episodes=4", "evaluation.final_episodes=6"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of one rank; its directory is `run` in this folder."""
    folder = tmp_path_factory.mktemp("run")
    done = harness("train", "ppo-cartpole", *QUICK, "--output", "run", cwd=folder)
    assert done.code == 0 and "over 6 episodes" in done.out, done.err
    return folder


def test_the_directory_holds_the_files_of_the_contract(ran: Path) -> None:
    result = read_json(ran / "run" / "result.json")
    assert result["status"] == "done" and result["env_steps"] == 2560 and result["gradient_steps"] == 200
    assert result["value"] == result["eval_return_mean"] and result["eval_episodes"] == 6
    assert result["sync_path"] == "alone" and result["ranks"] == 1 and result["versions"]["torch"]
    lines = [json.loads(line) for line in (ran / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == list(range(1, 11))
    assert [line["env_steps"] for line in lines if "eval_return_mean" in line] == [512, 1024, 1536, 2048, 2560]
    assert {"policy_loss", "value_loss", "entropy", "kl", "clip_fraction", "lr"} <= set(lines[0])
    assert list((ran / "run" / "tensorboard").glob("events*"))


def test_the_resolved_config_repeats_the_run(ran: Path) -> None:
    config = tomllib.loads((ran / "run" / "config.toml").read_text())
    assert config["env"]["backend"] == "native" and config["run"]["threads"] == 1, "what auto came to be"
    again = harness("train", "run/config.toml", "--output", "again", cwd=ran)
    assert again.code == 0, again.err
    first, second = (read_json(ran / name / "result.json") for name in ("run", "again"))
    assert first["value"] == second["value"]
    curves = [(ran / name / "metrics.jsonl").read_text().splitlines() for name in ("run", "again")]
    for line, repeat in zip(*curves):
        one, other = ({k: v for k, v in json.loads(text).items() if k != "seconds"} for text in (line, repeat))
        assert one == other


def test_a_finished_run_started_again_prints_its_result_and_does_nothing(ran: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (ran / "run").rglob("*")}
    again = harness("train", "ppo-cartpole", *QUICK, "--output", "run", cwd=ran)
    assert again.code == 0 and "over 6 episodes" in again.out
    assert before == {path: path.stat().st_mtime_ns for path in (ran / "run").rglob("*")}


def test_a_policy_is_evaluated_and_loaded(ran: Path) -> None:
    done = harness("evaluate", "run", "--episodes", "5", cwd=ran)
    assert done.code == 0 and "over 5 episodes of the latest policy" in done.out, done.err
    policy = package.load_policy(ran / "run", "best")
    assert policy(np.zeros((3, 4), np.float32)).shape == (3,)
    same = [package.evaluate(ran / "run", episodes=5, seed=4).returns.tolist() for _ in range(2)]
    assert same[0] == same[1]


def test_python_does_what_the_command_does(ran: Path, tmp_path: Path) -> None:
    result = package.train("ppo-cartpole", QUICK, output=tmp_path / "run")
    assert result.value == read_json(ran / "run" / "result.json")["value"]
    with pytest.raises(BadInput, match="optimizer.lr"):
        package.train("ppo-cartpole", ["optimizer.lr=-1"], output=tmp_path / "other")


def test_a_run_ends_early_when_it_is_good_enough(tmp_path: Path) -> None:
    result = package.train("ppo-cartpole", [*QUICK, "evaluation.stop_at=5"], output=tmp_path)
    assert result.status == "done" and result.reason == "evaluation.stop_at" and result.env_steps == 512


def test_a_run_ends_early_when_it_gets_no_better(tmp_path: Path) -> None:
    still = [*QUICK, "optimizer.lr=1e-12", "evaluation.patience=2"]  # nothing is learned: each evaluation is the first
    result = package.train("ppo-cartpole", still, output=tmp_path)
    assert result.reason == "evaluation.patience" and result.env_steps == 3 * 512


LONG = ["run.steps=1000000", "evaluation.count=1000", "evaluation.episodes=1", "evaluation.final_episodes=1"]
LONG += ["compile.mode=off"]  # compiling takes seconds of a run's time


def test_a_run_out_of_time_stops_with_a_checkpoint_and_goes_on(tmp_path: Path) -> None:
    done = []
    for minutes in (0.15, 0.15, 0.16):  # each attempt has its own time, and may be given more
        stopped = harness("train", "ppo-cartpole", *LONG, f"run.max_minutes={minutes}", "--output", "run", cwd=tmp_path)
        assert stopped.code == 75 and "run.max_minutes" in stopped.out, stopped.err
        result = read_json(tmp_path / "run" / "result.json")
        assert result["status"] == "stopped"
        done.append(result["env_steps"])
    assert done[0] + 256 < done[1] < done[2] - 256 < 1_000_000, "more than one iteration each time"
    lines = [json.loads(line)["update"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(range(1, done[-1] // 256 + 1)), "each update once"


def test_time_that_earlier_attempts_of_a_start_took_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_SECONDS_SPENT", "599.9")
    result = package.train("ppo-cartpole", [*LONG, "run.max_minutes=10"], output=tmp_path)
    assert result.status == "stopped" and "run.max_minutes" in (result.reason or "")


def test_a_run_begun_with_a_setting_is_another_than_one_without_it(ran: Path, tmp_path: Path) -> None:
    package.train("ppo-cartpole", [*QUICK, "algorithm.target_kl=0.01"], output=tmp_path)
    with pytest.raises(BadInput, match="algorithm.target_kl is 0.01 there and None here"):
        package.train("ppo-cartpole", QUICK, output=tmp_path)


def test_a_folder_with_files_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "mine.pt").write_text("precious")
    with pytest.raises(BadInput, match="checkpoints but no config.toml"):
        package.train("ppo-cartpole", QUICK, output=tmp_path)
    assert (tmp_path / "checkpoints" / "mine.pt").read_text() == "precious"


def test_a_checkpoint_to_resume_from_that_is_none_is_refused_and_the_result_kept(ran: Path) -> None:
    with pytest.raises(BadInput, match="--resume must be auto, never, or the path of a whole checkpoint, got Auto"):
        package.train("ppo-cartpole", QUICK, output=ran / "run", resume="Auto")
    assert read_json(ran / "run" / "result.json")["status"] == "done"


def test_a_run_may_begin_from_the_checkpoint_of_another(ran: Path, tmp_path: Path) -> None:
    source = ran / "run" / "checkpoints" / "best"
    result = package.train("ppo-cartpole", QUICK, output=tmp_path / "next", resume=str(source))
    assert result.status == "done" and result.env_steps == 2560


def test_two_runs_at_once_in_one_directory_are_refused(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path)
    lock.acquire()
    with pytest.raises(BadInput, match="in use by a run that goes on"):
        package.train("ppo-cartpole", QUICK, output=tmp_path)
    lock.release()
    assert package.train("ppo-cartpole", QUICK, output=tmp_path).status == "done"


def test_moments_of_observations_and_rewards_survive_a_checkpoint(tmp_path: Path) -> None:
    both = [*QUICK, "env.normalize_observations=true", "env.normalize_rewards=true", "run.max_minutes=60"]
    assert package.train("ppo-cartpole", both, output=tmp_path / "run").status == "done"
    policy = package.load_policy(tmp_path / "run")
    moments, scaler = policy.environments.moments, policy.environments.scaler
    assert moments is not None and moments.count >= 2560 and scaler is None or scaler.moments.count == 2560


def test_moments_stand_still_in_evaluations(tmp_path: Path) -> None:
    """They are those of the steps of training and of the observations that its environments began with."""
    both = [*QUICK, "env.normalize_observations=true", "env.normalize_rewards=true"]
    assert package.train("ppo-cartpole", both, output=tmp_path).status == "done"
    policy = package.load_policy(tmp_path)
    moments, scaler = policy.environments.moments, policy.environments.scaler
    assert moments is not None and scaler is not None and policy.config.env is not None
    assert moments.count == 2560 + policy.config.env.count and scaler.moments.count == 2560


@pytest.mark.parametrize("preset", ["ppo-pendulum", "ppo-acrobot"])
def test_other_presets_run_from_end_to_end(preset: str, tmp_path: Path) -> None:
    few = ["algorithm.rollout_steps=64", "run.steps=2048", "algorithm.epochs=1", *QUICK[1:]]
    assert package.train(preset, few, output=tmp_path).status == "done"


def test_images_of_bytes_are_taken_by_the_default_network(tmp_path: Path) -> None:
    result = package.train("ppo-cartpole", [*QUICK, 'env.id="tests.environments:Bytes-v0"'], output=tmp_path)
    assert result.status == "done"


def test_a_network_with_dropout_acts_the_same_twice(tmp_path: Path) -> None:
    with_dropout = [*QUICK, 'network.class="tests.networks:WithDropout"']
    assert package.train("ppo-cartpole", with_dropout, output=tmp_path).status == "done"
    policy = package.load_policy(tmp_path)
    seen = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    assert all((policy(seen) == policy(seen)).all() for _ in range(5))


@pytest.mark.slow
def test_a_request_to_stop_is_heard_during_the_final_evaluation(tmp_path: Path) -> None:
    """The time is over while a million episodes are played: the run stops with its checkpoint, and not as finished."""
    endless = [*QUICK[:3], "evaluation.final_episodes=1_000_000", "run.max_minutes=0.2"]
    result = package.train("ppo-cartpole", endless, output=tmp_path)
    assert (result.status, result.env_steps) == ("stopped", 2560) and "run.max_minutes" in (result.reason or "")
    assert (tmp_path / "checkpoints" / "latest" / "manifest.json").is_file()
