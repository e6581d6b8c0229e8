"""Exact resume: a run that stopped, or died, and went on ends as one that was never disturbed, to the last bit."""

from __future__ import annotations

import json
import random
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from harness.buffers.replay import GOES_ON
from harness.config import load_run_config
from harness.envs import evaluation
from harness.envs.factory import exists
from harness.errors import BadInput
from harness.files import write_json
from harness.lifecycle.checkpoints import checkpoint
from harness.lifecycle.checkpoints.serialization import as_arrays, as_tensors
from harness.lifecycle.checkpoints.shards import joined
from harness.run.train import train
from harness.training.compile import matmul
from tests.conftest import need, slow
from tests.multirank.launch import WAYS, run_ranks
from tests.multirank.stopped_run import KILL, KILL_IN_SAVE, STOP, go

SCRIPT = Path(__file__).with_name("stopped_run.py")
SHORT = ["evaluation.count=4", "evaluation.episodes=2", "evaluation.final_episodes=2", "compile.mode=off"]
PPO = ["ppo-cartpole", *SHORT, "run.steps=2560", "algorithm.epochs=2"]
BOTH = ["env.normalize_observations=true", "env.normalize_rewards=true"]
PENDULUM = ["ppo-pendulum", *SHORT, *BOTH, "run.steps=1280", "env.count=4", "algorithm.rollout_steps=32"]
PENDULUM += ["algorithm.epochs=2", "algorithm.minibatch_size=64", "env.backend=sync"]
WORKERS = [*PENDULUM, "env.backend=workers", "env.workers=2", "env.double_buffer=on"]
# 10 iterations of 256 steps; from step 600 on the replay is full, and wraps
DQN = ["dqn-cartpole", *SHORT, "run.steps=2560", "env.count=4", "algorithm.buffer_size=600", "network.hidden=[32]"]
DQN += ["algorithm.train_freq=8", "algorithm.gradient_steps=2", "algorithm.batch_size=32"]
DQN += ["algorithm.learning_starts=100", "algorithm.target_update_interval=100"]
SWITCHES = ["algorithm.double=true", "algorithm.n_steps=3", "algorithm.prioritized=true"]
RAINBOW = [*DQN, *SWITCHES, "algorithm.dueling=true"]
SAC = ["sac-pendulum", *SHORT, "run.steps=1000", "algorithm.buffer_size=300", "algorithm.learning_starts=100"]
SAC += ["network.hidden=[32]", "env.backend=sync"]
LOCAL_SGD = ["sync.kind=local_sgd", "sync.local_sgd={every=6, fragments=2, delay=2, outer_momentum=0.9}"]
COMPILED = "compile.mode=on"
HOPPER = [*PENDULUM, "env.id=Hopper-v5"]


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """To the bit, whatever they are made of."""
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and one.shape == other.shape, where
        assert one.contiguous().numpy().tobytes() == other.contiguous().numpy().tobytes(), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where} {key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for at, (left, right) in enumerate(zip(one, other)):
            assert_same(left, right, f"{where} {at}")
    else:
        assert one == other, where


def metrics_of(run: Path, *but: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("seconds", *but)} for line in lines]


def shown(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: by series, steps and values."""
    board = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    tags = sorted(set(board.Tags()["scalars"]) - {"seconds"})
    return {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in tags}


def assert_same_end(whole: Any, resumed: Any, folder: Path, iterations: int) -> None:
    assert whole["status"] == resumed["status"] == "done" and whole["iterations"] == iterations
    assert_same(whole, resumed)
    assert str(shown(folder / "whole")) == str(shown(folder / "resumed"))  # as text: some values are no numbers
    metrics = metrics_of(folder / "whole")
    assert metrics == metrics_of(folder / "resumed")
    assert [line["update"] for line in metrics] == list(range(1, iterations + 1)), "each once"


CASES = {
    "ppo": (PPO, 10),
    "ppo, normalised and scaled, on pendulum": (PENDULUM, 10),
    "ppo, in workers that step by halves": (WORKERS, 10),
    "ppo, several rollouts an iteration": (
        ["a2c-acrobot", *SHORT, "env.backend=sync", "run.steps=2560", "env.count=4"],
        9,
    ),
    "dqn": (DQN, 10),
    "dqn with every switch": (RAINBOW, 10),
    "sac": (SAC, 4),
    "ppo, compiled": ([*PPO, COMPILED], 10),
    "dqn, compiled": ([*DQN, COMPILED], 10),
    "sac with gsde": ([*SAC, "algorithm.gsde=true", "network.hidden=[32, 32]"], 4),
    "td3": (["td3-pendulum", *SAC[1:]], 4),
    "ppo on mujoco": (HOPPER, 10),
    "supervised": (["supervised-digits", "algorithm.epochs=4", "evaluation.count=4", "compile.mode=off"], 4),
}


RARELY = ("ppo on mujoco", "ppo, compiled", "dqn, compiled", "sac with gsde", "supervised", "dqn")
"""What shares its code with a case beside it, or needs a compiler."""


@pytest.mark.parametrize("case", [slow(case) if case in RARELY else case for case in CASES])
def test_a_run_that_stopped_and_went_on_ends_as_one_that_did_not(case: str, tmp_path: Path) -> None:
    settings, iterations = CASES[case]
    if "mujoco" in case:
        need(exists("mujoco"), "the extra mujoco")
    if COMPILED in settings:
        need(shutil.which("g++"), "a C++ compiler")
    whole = go(str(tmp_path / "whole"), settings)
    stopped = go(str(tmp_path / "resumed"), settings, stop_after=iterations // 2)
    assert stopped["status"] == "stopped" and stopped["iterations"] == iterations // 2
    resumed = go(str(tmp_path / "resumed"), settings)
    assert whole["compiled"] == resumed["compiled"] == (COMPILED in settings)
    assert_same_end(whole, resumed, tmp_path, iterations)


def test_generators_of_the_whole_process_go_on_too(tmp_path: Path) -> None:
    settings = [*PPO, "env.id=tests.multirank.stopped_run:Careless-v0", "env.backend=sync"]

    def seeded(name: str, stop_after: int) -> Any:
        random.seed(3)
        np.random.seed(4)
        return go(str(tmp_path / name), settings, stop_after)

    whole = seeded("whole", 0)
    seeded("resumed", 5)
    assert_same_end(whole, go(str(tmp_path / "resumed"), settings), tmp_path, 10)


def on_ranks(ranks: int, way: str, folder: Path, *runs: dict[str, Any], fails: bool = False) -> tuple[Any, ...]:
    """What each rank has at the end of each of these runs, made one after the other by ranks of one start."""
    launcher, sync_path = WAYS[way]
    return run_ranks(
        ranks, launcher, SCRIPT, folder, json.dumps(runs), sync_path=sync_path, seconds=600, fails=fails
    ).given


RANKS = {
    "horovod over mpi": ("horovod-mpi", {"ppo": (PPO, 10, STOP)}),
    "gloo": ("horovod-gloo", {"dqn": (RAINBOW, 10, KILL)}),
    "mpi": ("mpi", {"dqn": (DQN, 10, KILL_IN_SAVE), "pendulum": (PENDULUM, 10, KILL)}),
    "mpi, sac killed": ("mpi", {"sac": ([*SAC, "evaluation.count=2"], 4, KILL)}),
    "mpi, ways to agree": (
        "mpi",
        {
            "local_sgd": ([*PPO, *LOCAL_SGD], 10, STOP),
            "gossip": (
                [*DQN, "sync.kind=gossip", "sync.gossip.overlap=true", "algorithm.target_update_interval=300"],
                10,
                STOP,
            ),
            "sac": ([*SAC, "sync.kind=local_sgd", "sync.local_sgd.every=7"], 4, STOP),
        },
    ),
    "mpi, compressed": (
        "mpi",
        {
            "top_k": ([*PPO, "compression.kind=top_k"], 10, STOP),
            "powersgd": ([*PPO, "compression.kind=powersgd", "compression.warmup_updates=3"], 10, KILL),
            "int8": ([*PENDULUM, "compression.kind=int8", "compression.error_feedback=true"], 10, STOP),
        },
    ),
    "gloo, sac": ("horovod-gloo", {"sac": (SAC, 4, STOP)}),
    "mpi, compiled": (
        "mpi",
        {
            "dqn": ([*DQN, COMPILED], 10, STOP),
            "sac": ([*SAC, COMPILED], 4, STOP),
            "ppo": ([*PPO, COMPILED], 10, STOP),
        },
    ),
}
"""By way, what runs on it: settings, iterations, how it is disturbed. Compiled gradients that Horovod reduces are in
`test_same_replay`."""


@pytest.mark.parametrize("kind", [*list(RANKS)[:3], *map(slow, list(RANKS)[3:])])
def test_two_ranks_too_also_where_all_were_killed(kind: str, tmp_path: Path) -> None:
    """A killed run resumes from the checkpoint of its last evaluation, of several hundred steps before."""
    way, cases = RANKS[kind]
    if "compiled" in kind:
        need(shutil.which("g++"), "a C++ compiler")
    whole, half, resumed = {}, {}, {}
    for name, (settings, iterations, how) in cases.items():
        (tmp_path / name).mkdir()
        whole[name] = {"run_dir": str(tmp_path / name / "whole"), "settings": settings}
        resumed[name] = {"run_dir": str(tmp_path / name / "resumed"), "settings": settings}
        half[name] = {**resumed[name], "stop_after": iterations // 2 + 2, "how": how}
    stopped = [run for run in half.values() if run["how"] == STOP]
    undisturbed = on_ranks(2, way, tmp_path, *whole.values(), *stopped)
    for run in half.values():
        if run["how"] != STOP:  # ends its ranks
            on_ranks(2, way, tmp_path, run, fails=True)
    kept = {name: newest_step(tmp_path / name / "resumed") for name in cases}
    for name, (_, _, how) in cases.items():
        left = list((tmp_path / name / "resumed" / "checkpoints").glob(".step-*"))
        assert how != KILL_IN_SAVE or left, "half a checkpoint"
    again = on_ranks(2, way, tmp_path, *resumed.values())
    for number, (name, (settings, iterations, how)) in enumerate(cases.items()):
        if how != STOP:
            steps = metrics_of(tmp_path / name / "whole")[iterations // 2 + 1]["env_steps"]
            assert steps - kept[name] >= 250, "several hundred steps are made again"
        for ours, theirs in zip(undisturbed, again):
            assert ours[number]["compiled"] == (COMPILED in settings)
            assert_same_end(ours[number], theirs[number], tmp_path / name, iterations)


def newest_step(run: Path) -> int:
    return max(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))


CONSTANT = {
    "ppo": [*PPO, "optimizer.schedule=constant", "algorithm.clip_schedule=constant"],
    "dqn": [*DQN, "optimizer.schedule=constant", "algorithm.exploration_initial_eps=0.1"],
    "sac": [*SAC, "optimizer.schedule=constant"],
}
CONSTANT["dqn"] += ["algorithm.exploration_final_eps=0.1"]


def assert_same_but_for_evaluations(whole: Any, resumed: Any, folder: Path) -> None:
    """These are where the budgets have them; of the final one, and all else, nothing differs."""
    assert (whole["status"], whole["value"]) == (resumed["status"], resumed["value"])
    for part in ("state", "own", "rings"):
        assert_same(whole[part], resumed[part], part)
    evaluations = "eval_return_mean", "eval_return_std"
    assert metrics_of(folder / "whole", *evaluations) == metrics_of(folder / "resumed", *evaluations)


def test_a_larger_budget_on_resume_ends_as_if_it_had_been_so_from_the_start(tmp_path: Path) -> None:
    """With schedules that do not depend on the budget. The evaluations are then at other times; the rest is equal."""
    constant = CONSTANT["ppo"]
    whole = go(str(tmp_path / "whole"), constant)
    assert go(str(tmp_path / "resumed"), [*constant, "run.steps=1280"])["status"] == "done"
    resumed = go(str(tmp_path / "resumed"), constant)
    assert_same_but_for_evaluations(whole, resumed, tmp_path)
    looked = [line["update"] for line in metrics_of(tmp_path / "resumed") if "eval_return_mean" in line]
    assert looked[-2:] == [8, 10], "from there on where the larger budget has them"


@pytest.mark.parametrize("case", ["ppo", slow("dqn"), slow("sac")])
def test_a_run_that_stopped_may_be_given_a_larger_budget_too(case: str, tmp_path: Path) -> None:
    settings = CONSTANT[case]
    whole = go(str(tmp_path / "whole"), settings)
    less = "run.steps=750" if case == "sac" else "run.steps=2048"
    stopped = go(str(tmp_path / "resumed"), [*settings, less], stop_after=2)
    assert stopped["status"] == "stopped" and stopped["iterations"] == 2
    assert_same_but_for_evaluations(whole, go(str(tmp_path / "resumed"), settings), tmp_path)


def test_two_ranks_that_stopped_may_be_given_a_larger_budget_too(tmp_path: Path) -> None:
    whole, run = ({"run_dir": str(tmp_path / name), "settings": CONSTANT["dqn"]} for name in ("whole", "resumed"))
    shorter = {**run, "settings": [*CONSTANT["dqn"], "run.steps=2048"], "stop_after": 5}
    given = on_ranks(2, "mpi", tmp_path, whole, shorter)
    for (ours, _), (theirs,) in zip(given, on_ranks(2, "mpi", tmp_path, run)):
        assert_same_but_for_evaluations(ours, theirs, tmp_path)


def of(run: int, ranks: tuple[Any, ...]) -> tuple[Any, ...]:
    """One of the runs that the ranks made."""
    return tuple(rank[run] for rank in ranks)


def together(ranks: tuple[Any, ...], *path: str) -> Any:
    """What the ranks have of their environments, side by side."""
    parts = list(ranks)
    for name in path:
        parts = [part[name] for part in parts]
    return parts[0] if len(parts) == 1 else joined([as_arrays(part) for part in parts])


@pytest.mark.parametrize(("ranks", "then"), [(2, 3), slow(3, 1)])
def test_on_another_number_of_ranks_each_takes_over_its_environments(ranks: int, then: int, tmp_path: Path) -> None:
    """Replay, environments and running episodes are those of before, and what follows is that of a run that was not
    disturbed, but for the rounding of sums over other ranks."""
    settings = [*RAINBOW, "env.backend=sync", "optimizer.eps=1e-5"]
    run = {"run_dir": str(tmp_path / "run"), "settings": settings}
    stopped = of(0, on_ranks(ranks, "mpi", tmp_path, {**run, "stop_after": 5}))
    assert stopped[0]["iterations"] == 5
    nothing_to_do = {**run, "settings": [*settings, "run.steps=1280"]}
    both = on_ranks(then, "mpi", tmp_path, nothing_to_do, run)
    at_rest, resumed = of(0, both), of(1, both)
    for path in (("own",), ("rings",)):
        assert_same(as_tensors(together(at_rest, *path)), as_tensors(together(stopped, *path)))
    assert_same(at_rest[0]["state"], stopped[0]["state"])
    assert resumed[0]["status"] == "done" and len(metrics_of(tmp_path / "run")) == 10
    whole = go(str(tmp_path / "whole"), settings)
    assert_same(as_tensors(together(resumed, "rings", "actions")), as_tensors(together((whole,), "rings", "actions")))
    for name, expected in whole["state"]["module"].items():
        assert (resumed[0]["state"]["module"][name] - expected).norm() <= 1e-4 * expected.norm(), name


def test_a_replay_that_went_to_two_ranks_and_back_is_the_same(tmp_path: Path) -> None:
    """Both of the two name segments of the first, and write over what is in them."""
    settings = [*DQN, "env.backend=sync"]
    run = {"run_dir": str(tmp_path / "run"), "settings": settings}
    go(str(tmp_path / "run"), settings, stop_after=3, sync_path="mpi")
    stopped = of(0, on_ranks(2, "mpi", tmp_path, {**run, "stop_after": 4}))
    at_rest = go(str(tmp_path / "run"), [*settings, "run.steps=1024"], sync_path="mpi")  # nothing to do
    for path in ("own", "rings"):
        assert_same(as_tensors(together((at_rest,), path)), as_tensors(together(stopped, path)))


def test_environments_without_a_state_begin_new_episodes_and_the_run_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their replay is kept: it ends with an episode that was cut off, and goes on with the new one."""
    need(exists("Box2D"), "the extra box2d")
    settings = [*DQN, "env.id=LunarLander-v3", "env.backend=sync", "algorithm.buffer_size=4000"]
    stopped = go(str(tmp_path), settings, stop_after=5)
    assert "checkpoints do not hold the state of LunarLander-v3" in capsys.readouterr().out
    resumed = go(str(tmp_path), settings)
    assert "4 of 4 environments begin a new episode" in capsys.readouterr().out
    assert resumed["status"] == "done" and resumed["iterations"] == 10
    for env in range(4):
        before, after = (ended["rings"]["actions"][env] for ended in (stopped, resumed))
        assert len(before) == 320 and torch.equal(after[:320], before)
        assert resumed["rings"]["ends"][env][319] != GOES_ON, "no transition mixes two episodes"


def test_what_auto_came_to_be_is_kept(tmp_path: Path) -> None:
    """A budget of 40,000 gradient steps would have been compiled, had it been so from the start."""
    open_ended = [*PPO, "compile.mode=auto", "env.backend=auto", "algorithm.epochs=20"]
    assert not go(str(tmp_path), open_ended)["compiled"]
    ended = go(str(tmp_path), [*open_ended, "run.steps=512000"], stop_after=12)
    assert ended["status"] == "stopped" and not ended["compiled"]


@pytest.mark.slow
def test_what_compiled_code_is_made_of_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products large enough for oneDNN, which a timing found quicker when the run began, and not when it went on."""
    need(shutil.which("g++"), "a C++ compiler")
    need(matmul.has_onednn(), "a torch with oneDNN")
    large = [*SAC, COMPILED, "network.hidden=[256, 256]", "algorithm.batch_size=256", "run.steps=500"]
    monkeypatch.setattr(matmul, "onednn_is_quicker", lambda: True)
    whole = go(str(tmp_path / "whole"), large)
    go(str(tmp_path / "resumed"), large, stop_after=1)
    monkeypatch.setattr(matmul, "onednn_is_quicker", lambda: False)
    resumed = go(str(tmp_path / "resumed"), large)
    assert whole["compiled"] and resumed["compiled"]
    assert_same_end(whole, resumed, tmp_path, 2)
    kept = checkpoint.read_manifest(tmp_path / "resumed" / "checkpoints" / "latest")
    config = tomllib.loads((tmp_path / "resumed" / "config.toml").read_text())
    assert kept is not None and kept["config"]["compile"]["products"] == config["compile"]["products"] == "onednn"


def test_where_a_part_is_missing_all_begin_new_episodes_and_learn_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a checkpoint is that ranks wrote which shared no file system, or an earlier version of this project."""
    go(str(tmp_path), DQN, stop_after=5)
    saved = (tmp_path / "checkpoints" / "latest").resolve()
    manifest = checkpoint.read_manifest(saved)
    assert manifest is not None
    del manifest["files"]["rank-0.pt"]
    manifest["parts"] = []
    write_json(saved / "manifest.json", {**manifest, "sha256": checkpoint.sum_of(manifest)})
    resumed = go(str(tmp_path), DQN)
    out = capsys.readouterr().out
    assert "the parts of some ranks are not in the checkpoint: the replay is empty" in out
    assert "4 of 4 environments begin a new episode" in out
    assert resumed["status"] == "done" and resumed["iterations"] == 10


def test_a_checkpoint_of_other_settings_is_refused_with_their_names(tmp_path: Path) -> None:
    go(str(tmp_path / "one"), PPO, stop_after=5)
    other = [*PPO, "optimizer.lr=0.1", "algorithm.gamma=0.9"]
    named = "algorithm.gamma is 0.98 there and 0.9 here, optimizer.lr is 0.001 there and 0.1 here"
    with pytest.raises(BadInput, match=f"holds another run: {named}"):
        go(str(tmp_path / "one"), other)
    kept = tmp_path / "one" / "checkpoints" / "latest"
    with pytest.raises(BadInput, match=f"is a checkpoint of another run: {named}"):
        train(load_run_config(other[0], other[1:]), tmp_path / "two", resume=str(kept))
    assert not (tmp_path / "two").exists()


def test_a_request_during_an_evaluation_makes_it_again_and_each_update_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is heard in the midst of 300 episodes, since the ranks ask every millisecond: all are played again,
    and are those of a run that was not disturbed."""
    monkeypatch.setattr(evaluation, "LISTEN_SECONDS", 0.001)
    many = [*PPO[:1], *PPO[2:], "evaluation.count=2", "evaluation.episodes=300"]
    whole = go(str(tmp_path / "whole"), many)
    stopped = go(str(tmp_path / "resumed"), many, stop_after=5)  # the signal comes before the evaluation begins
    assert stopped["status"] == "stopped" and len(metrics_of(tmp_path / "resumed")) == 4
    resumed = go(str(tmp_path / "resumed"), many)
    assert_same_end(whole, resumed, tmp_path, 10)
