"""Bad input to `harness train`: one line on standard error that names the setting, exit code 2, nothing started."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from harness.__main__ import main
from tests.command import harness
from tests.conftest import need

EXTRAS = ("mujoco", "ale_py", "envpool")
"""Modules of extras that the cases below are without."""
SHORT = ["run.steps=256", "evaluation.count=1", "evaluation.episodes=1", "evaluation.final_episodes=1"]

CASES = {
    "an unknown preset": (["ppo-cartpol"], ["ppo-cartpol", "did you mean ppo-cartpole?"]),
    "a missing file": (["missing.toml"], ["missing.toml", "no such file"]),
    "an unknown section": (["ppo-cartpole", "optimiser.lr=1"], ["optimiser is no setting", "did you mean optimizer?"]),
    "an unknown key": (["ppo-cartpole", "optimizer.lrr=1"], ["did you mean optimizer.lr?"]),
    "an unknown key of the algorithm": (["ppo-cartpole", "algorithm.gama=1"], ["did you mean algorithm.gamma?"]),
    "an unknown algorithm": (["ppo-cartpole", "algorithm.name=pppo"], ["algorithm.name", "ppo, sac, super", "'pppo'"]),
    "a value out of range": (["ppo-cartpole", "optimizer.lr=-1"], ["optimizer.lr must be > 0", "got -1"]),
    "a value of another type": (["ppo-cartpole", "env.count=many"], ["env.count", "integer", "'many'"]),
    "a choice that is none": (["ppo-cartpole", "sync.path=fast"], ["sync.path", "auto, horovod, mpi, or", "'fast'"]),
    "an override without =": (["ppo-cartpole", "optimizer.lr"], ["'optimizer.lr'", "section.key=value"]),
    "an environment that does not exist": (["ppo-cartpole", "env.id=CartPoll-v1"], ["CartPoll-v1", "CartPole-v1"]),
    "a module that does not exist": (["ppo-cartpole", "env.id=no_such:Env-v0"], ["there is no module 'no_such'"]),
    "an environment without its extra": (
        ["ppo-cartpole", "env.id=HalfCheetah-v5"],
        ["HalfCheetah-v5", "extra 'mujoco'", "pip install"],
    ),
    "an Atari game without its extra": (["ppo-cartpole", "env.id=ALE/Pong-v5"], ["ALE/Pong-v5", "extra 'atari'"]),
    "a game of another name": (
        ["ppo-cartpole", "env.id=PongDeterministic-v4"],
        ["PongDeterministic-v4", "ALE/Pong-v5 or PongNoFrameskip-v4"],
    ),
    "a game's memory": (["ppo-cartpole", "env.id=ALE/Pong-ram-v5"], ["ALE/Pong-ram-v5", "ALE/Pong-v5"]),
    "an environment that has moved": (
        ["ppo-cartpole", "env.id=HalfCheetah-v3"],
        ["HalfCheetah-v3", "moved to the gymnasium-robotics project"],
    ),
    "EnvPool without its extra": (
        ["ppo-cartpole", "env.backend=envpool"],
        ["env.backend", "extra 'envpool'", "pip install"],
    ),
    "EnvPool for an environment that it has not": (
        ["ppo-cartpole", "env.id=tests.environments:Line-v0", "env.backend=envpool"],
        ["env.backend", "tests.environments:Line-v0", "'sync' or 'workers'"],
    ),
    "a vector class where there is none": (
        ["ppo-cartpole", "env.id=Acrobot-v1", "env.backend=native"],
        ["env.backend", "Acrobot-v1 has no vector class"],
    ),
    "no workers": (["ppo-cartpole", "env.workers=0"], ["env.workers", ">= 1", "0"]),
    "keyword arguments that the environment has not": (
        ["ppo-cartpole", "env.kwargs.gravitas=3"],
        ["env.kwargs", "gravitas"],
    ),
    "a wrapper that does not exist": (["ppo-cartpole", "env.wrappers=['os:nothing']"], ["env.wrappers", "nothing"]),
    "a network that does not exist": (["ppo-cartpole", "network.class=os:Net"], ["network.class", "'Net'"]),
    "a network that cannot be built": (
        ["ppo-cartpole", "network.class=torch.nn:Identity", "network.hidden=[64]"],
        ["network.class", "action_parameters, values"],
    ),
    "a minibatch larger than a rollout": (
        ["ppo-cartpole", "algorithm.minibatch_size=257"],
        ["algorithm.minibatch_size", "at most", "256", "257"],
    ),
    "fewer steps than a rollout": (["ppo-cartpole", "run.steps=100"], ["run.steps", "at least", "256", "100"]),
    "a batch larger than what is stored": (
        ["dqn-cartpole", "algorithm.batch_size=100001"],
        ["algorithm.batch_size", "at most what is stored", "100000", "100001"],
    ),
    "a replay larger than memory": (
        ["dqn-cartpole", "algorithm.buffer_size=100000000000"],
        ["algorithm.buffer_size = 100,000,000,000", "GiB of free memory", "at most about"],
    ),
    "a batch that is never reached": (
        ["sac-pendulum", "algorithm.batch_size=30000"],
        ["algorithm.batch_size", "below the 20000", "30000"],
    ),
    "a start of learning that is never reached": (
        ["dqn-cartpole", "run.steps=768"],
        ["algorithm.learning_starts", "below the 768", "1000"],
    ),
    "fewer environments than ranks": (
        ["ppo-cartpole", "env.count=1", "--ranks", "2", "algorithm.minibatch_size=32"],
        ["env.count", "at least the number of ranks, 2", "got 1"],
    ),
    "a path that the launcher cannot carry": (
        ["ppo-cartpole", "sync.path=mpi", "--ranks", "2", "--launcher", "horovodrun-gloo"],
        ["sync.path", "mpirun or horovodrun"],
    ),
    "no ranks": (["ppo-cartpole", "--ranks", "0"], ["--ranks", ">= 1", "0"]),
    "an unknown launcher": (
        ["ppo-cartpole", "--ranks", "2", "--launcher", "srunn"],
        ["launcher", "horovodrun, horovodrun-gloo, mpirun", "'srunn'"],
    ),
    "a hostfile without --ranks": (["ppo-cartpole", "--hostfile", "hosts"], ["--hostfile", "--ranks"]),
    "a hostfile that is missing": (["ppo-cartpole", "--ranks", "2", "--hostfile", "hosts"], ["hosts"]),
    "an option that does not exist": (["ppo-cartpole", "--rank", "2", "--fast"], ["--fast"]),
    "observations that no network takes": (
        ["ppo-cartpole", "env.id=Blackjack-v1"],
        ["Blackjack-v1", "Tuple observations", "FlattenObservation"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_in_one_line_with_exit_code_2_and_nothing_is_started(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, expected = CASES[case]
    monkeypatch.chdir(tmp_path)
    if "a game" in case:
        need(find_spec("ale_py"), "the extra 'atari'")
    if "without its extra" in case:  # whether it is installed or not
        for name in [*sys.modules, *EXTRAS]:
            if name in EXTRAS or name.startswith(("gymnasium.envs.mujoco", *EXTRAS)):
                monkeypatch.setitem(sys.modules, name, None)
    code = main(["train", *arguments])  # what `python -m harness` calls, here without a process for each case
    err = capsys.readouterr().err
    assert code == 2, err
    assert len(err.strip().splitlines()) == 1, err
    for words in expected:
        assert words in err, err
    assert not list(tmp_path.iterdir()), "something was written"


def test_the_process_ends_with_2_and_one_line_too(tmp_path: Path) -> None:
    ran = harness("train", "ppo-cartpole", "optimizer.lr=-1", cwd=tmp_path)
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1), ran.err


@pytest.mark.parametrize("env_id, expected", {"HalfCheetah-v3": "moved", "LunarLander-v2": "LunarLander-v3"}.items())
def test_what_gymnasium_warns_of_beside_a_refusal_is_no_second_line(env_id: str, expected: str, tmp_path: Path) -> None:
    ran = harness("train", "ppo-cartpole", f"env.id={env_id}", cwd=tmp_path)
    assert ran.code == 2 and expected in ran.err and len(ran.err.splitlines()) == 1, ran.err


def test_a_way_of_drawing_that_mujoco_has_not_is_refused(tmp_path: Path) -> None:
    need(find_spec("mujoco"), "the extra 'mujoco'")
    ran = harness("train", "ppo-cartpole", "env.id=HalfCheetah-v5", cwd=tmp_path, env={"MUJOCO_GL": "paper"})
    assert ran.code == 2 and "MUJOCO_GL = 'paper'" in ran.err and len(ran.err.splitlines()) == 1, ran.err


def test_more_ranks_than_slots_are_refused(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("localhost slots=2\n")
    ran = harness("train", "ppo-cartpole", "--ranks", "3", "--hostfile", "hosts", cwd=tmp_path)
    assert ran.code == 2 and "3" in ran.err and "2" in ran.err and len(ran.err.strip().splitlines()) == 1, ran.err
    assert not (tmp_path / "runs").exists()


def test_broken_toml_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[run\nsteps = 1\n")
    ran = harness("train", "mine.toml", cwd=tmp_path)
    assert ran.code == 2 and "mine.toml" in ran.err and "line 1" in ran.err, ran.err


def test_ranks_inside_a_launcher_are_refused(tmp_path: Path) -> None:
    ran = harness("train", "ppo-cartpole", "--ranks", "2", cwd=tmp_path, env={"HOROVOD_RANK": "0", "HOROVOD_SIZE": "2"})
    assert ran.code == 2 and "--ranks" in ran.err, ran.err
    assert not (tmp_path / "runs").exists()


def test_a_directory_that_holds_another_run_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    assert harness("train", "ppo-cartpole", *SHORT, "--output", "here", cwd=tmp_path).code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "here").rglob("*") if path.is_file()}
    for more in ([], ["--ranks", "2"]):
        ran = harness("train", "ppo-cartpole", *SHORT, "optimizer.lr=0.5", *more, "--output", "here", cwd=tmp_path)
        assert ran.code == 2 and "optimizer.lr" in ran.err and "0.001" in ran.err and "0.5" in ran.err, ran.err
    assert before == {path: path.read_bytes() for path in (tmp_path / "here").rglob("*") if path.is_file()}


def test_evaluating_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    ran = harness("evaluate", str(tmp_path), cwd=tmp_path)
    assert ran.code == 2 and "config.toml" in ran.err
