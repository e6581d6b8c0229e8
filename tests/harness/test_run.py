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


def test_a_run_out_of_time_stops_with_a_checkpoint_and_goes_on(tmp_path: Path) -> None:
    long = ["run.steps=1000000", "evaluation.count=1000", "evaluation.episodes=1", "evaluation.final_episodes=1"]
    stopped = harness("train", "ppo-cartpole", *long, "run.max_minutes=0.03", "--output", "run", cwd=tmp_path)
    assert stopped.code == 75 and "run.max_minutes" in stopped.out, stopped.err
    before = read_json(tmp_path / "run" / "result.json")
    assert before["status"] == "stopped" and 0 < before["env_steps"] < 1_000_000
    again = harness("train", "ppo-cartpole", *long, "run.max_minutes=0.03", "--output", "run", cwd=tmp_path)
    assert again.code == 75 and f"{before['env_steps']:,} steps done" in again.out
