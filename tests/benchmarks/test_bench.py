"""The table is fair and says what was measured: contestants do the same work, take turns, and are compared rightly."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.algorithms.ppo import PPO as OurPPO
from harness.config import load_run_config
from harness.distributed.world import World
from harness.files import read_json
from harness.lifecycle.signals import StopRequests
from harness.run.attempt import Attempt
from harness.run.loop import Run
from tests.benchmarks import ours, plain_ppo, replay_floor, replay_memory
from tests.benchmarks.contest import Contestant, Joined, Row
from tests.benchmarks.figures import Claim, Score, Verdict, number
from tests.benchmarks.results import COMMAND, FACE, face, load, save, summary
from tests.benchmarks.rows import PPO, SMALL, rows
from tests.benchmarks.timing import arguments_of
from tests.command import ROOT, environment
from tests.conftest import need
from tests.docs import quoting
from tests.multirank.launch import run_ranks

TINY = PPO(envs=2, steps=32, minibatch=16)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def plain(*more: str) -> plain_ppo.PlainPPO:
    arguments = TINY.peer("plain", "plain_ppo", *more).arguments
    return plain_ppo.PlainPPO(plain_ppo.parser().parse_args([*arguments, "--json", "unused"]))


def steps_taken(owner: Any, name: str, rewards: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Environment steps that pass through a method, in the list's one number: a reward is a step."""
    steps, method = [0], getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        steps[0] += len(rewards(result))
        return result

    monkeypatch.setattr(owner, name, call)
    return steps


@pytest.mark.slow
def test_all_contestants_do_the_same_work_in_an_iteration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [*TINY.ours("ours").arguments, "compile.mode=off"]
    config = ours.config_of(ours.parser().parse_args([*arguments, "--json", "unused"]))
    run = Run(Attempt(config, tmp_path, "never", World({}), StopRequests()))
    algorithm, peer = run.algorithm, plain()
    assert isinstance(algorithm, OurPPO)
    ours_took = steps_taken(algorithm.envs, "receive", lambda result: result.rewards, monkeypatch)
    peer_took = steps_taken(peer.envs, "step", lambda result: result[1], monkeypatch)

    run.iterate()
    peer.run(1)

    assert ours_took == peer_took == [TINY.steps * TINY.envs]
    assert updates(algorithm.learner.step.optimizer) == updates(peer.optimizer) == 16  # 4 epochs x 64 samples / 16
    assert size(algorithm.module) == size(peer.agent)


def updates(optimizer: torch.optim.Optimizer) -> int:
    """How often Adam stepped, by its own count."""
    return int(next(iter(optimizer.state.values()))["step"])


def size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.slow
def test_stable_baselines3_does_the_same_work_too() -> None:
    need(find_spec("stable_baselines3"), "the extra 'bench': make bench installs it")
    from tests.benchmarks import sb3_ppo

    model = sb3_ppo.build(arguments_of("").parse_args([*TINY.peer("", "sb3_ppo").arguments, "--json", "unused"]))

    model.learn(TINY.steps * TINY.envs)

    assert model.num_timesteps == TINY.steps * TINY.envs
    assert updates(model.policy.optimizer) == 16
    assert size(model.policy) == size(plain().agent)


@pytest.mark.parametrize("key", ["8a", "8b", "8c", "8d"])
@pytest.mark.slow
def test_stable_baselines3_learns_from_replay_by_the_same_settings(key: str, tmp_path: Path) -> None:
    need(find_spec("stable_baselines3"), "the extra 'bench': make bench installs it")
    from tests.benchmarks import sb3_replay

    row = rows()[key]
    assert isinstance(row, Row)
    ours_is, peer_is, floor_is, *on_two_cores = row.contestants
    assert ours_is.arguments == peer_is.arguments == floor_is.arguments
    added = {"run.threads=2", "--threads", "2"}
    assert all(set(each.arguments) - set(ours_is.arguments) <= added for each in on_two_cores)
    small = ["run.steps=1024", "compile.mode=off", "algorithm.gradient_steps=2", "algorithm.batch_size=16"]
    config = load_run_config(peer_is.arguments[0], [*peer_is.arguments[1:], *small])
    run = Run(Attempt(config, tmp_path, "never", World({}), StopRequests()))
    steps = config.algorithm.train_freq  # type: ignore[attr-defined]
    model = sb3_replay.build(config)
    model.learn(5 * steps)
    while run.counters.env_steps < 5 * steps:
        run.iterate()

    assert model.num_timesteps == 5 * steps and model._n_updates == 10
    rounds = run.counters.env_steps // steps
    assert rounds - 8 <= run.counters.gradient_steps / 2 <= rounds, "from the first minibatch on"
    values = key in ("8a", "8c")
    targets = size(run.algorithm.target if values else run.algorithm.targets)  # type: ignore[attr-defined]
    temperature = 0 if values else 1
    assert size(model.policy) == size(run.algorithm.module) - temperature + targets


def test_the_products_of_an_update_are_those_of_its_layers() -> None:
    small = ["network.hidden=[32, 16]", "algorithm.batch_size=8"]

    def counted(preset: str, *more: str) -> dict[tuple[int, int, int], float]:
        found: dict[tuple[int, int, int], float] = {}
        for sizes, part in replay_floor.products(load_run_config(preset, [*small, *more])):
            found[sizes] = found.get(sizes, 0.0) + part
        return found

    dqn = counted("dqn-cartpole", "algorithm.train_freq=8", "algorithm.gradient_steps=4")
    sac = counted("sac-pendulum")

    # 4 observations, 2 actions: a network forward and back to its weights, whose observations need no gradient; another
    # forward for the 4 updates of a round
    assert dqn == (
        {(8, 4, 32): 1, (8, 32, 16): 1, (8, 16, 2): 1}
        | {(4, 8, 32): 1, (32, 8, 16): 1, (16, 8, 2): 1}
        | {(8, 16, 32): 1, (8, 2, 16): 1}
        | {(32, 4, 32): 0.25, (32, 32, 16): 0.25, (32, 16, 2): 0.25}
    )
    # two critics for targets, values and actor; the actor twice; back through the critics for both losses
    middle = {(8, 32, 16): 6 + 2, (32, 8, 16): 2 + 1, (8, 16, 32): 4 + 1}
    assert {sizes: count for sizes, count in sac.items() if sorted(sizes) == [8, 16, 32]} == middle
    assert sac[(8, 32, 4)] == 2, "the actions' gradient"


@pytest.mark.slow
def test_a_full_replay_is_measured_with_all_its_frames(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.replay_memory", "--transitions=40_000", "--json=found.json"]

    subprocess.run(command, cwd=tmp_path, env=environment(), check=True)

    (row,) = read_json(tmp_path / "found.json")["rows"]
    whole = replay_memory.replay_of(40_000, replay_memory.ENVS).nbytes / 1e9
    for score in row["scores"][:2]:
        assert score["values"] == [pytest.approx(whole, rel=0.05)], score["name"]


def test_two_ranks_hold_the_batch_of_each() -> None:
    one, two = (dict(setting.split("=") for setting in SMALL.ours("", ranks=n).arguments[1:]) for n in (1, 2))
    for name in ("env.count", "algorithm.minibatch_size"):
        assert int(two[name]) == 2 * int(one[name])
    assert one["algorithm.rollout_steps"] == two["algorithm.rollout_steps"] == str(SMALL.steps)


@pytest.mark.slow
def test_the_plain_peer_learns() -> None:
    arguments = [*SMALL.peer("plain", "plain_ppo").arguments, "--lr", "1e-3", "--json", "unused"]
    peer = plain_ppo.PlainPPO(plain_ppo.parser().parse_args(arguments))

    peer.run(50)

    assert np.mean(peer.returns[-20:]) > 3 * np.mean(peer.returns[:20])


def test_advantages_of_the_plain_peer_are_sums_of_discounted_deltas() -> None:
    peer = plain()
    draw = torch.Generator().manual_seed(3)
    for name in ("rewards", "values"):
        getattr(peer, name).normal_(generator=draw)
    peer.terminated[5, 0] = peer.done[5, 0] = 1.0
    peer.done[9, 1] = 1.0  # a time limit: the value of what came next counts, the steps after it do not

    found = peer.advantages()

    last = peer.agent(peer.observation)[1].detach()
    values = torch.cat([peer.values, last[None]])
    for env, ends in ((0, [5]), (1, [9])):
        for step in range(TINY.steps):
            expected, weight = 0.0, 1.0
            for at in range(step, TINY.steps):
                goes_on = 1.0 - float(peer.terminated[at, env])
                expected += weight * float(
                    peer.rewards[at, env] + 0.99 * goes_on * values[at + 1, env] - values[at, env]
                )
                weight *= 0.99 * 0.95
                if at in ends:
                    break
            assert float(found[step, env]) == pytest.approx(expected, abs=1e-4), (step, env)


WRAPPED = """
import torch
from tests.benchmarks import plain_ppo
from tests.multirank.launch import give

torch.set_num_threads(1)
sizes = "--envs 2 --steps 32 --minibatch 16 --horovod --json unused"
peer = plain_ppo.PlainPPO(plain_ppo.parser().parse_args(sizes.split()))
before = torch.nn.utils.parameters_to_vector(peer.agent.parameters()).detach().clone()
peer.run(2)
give((peer.hvd.size(), before, torch.nn.utils.parameters_to_vector(peer.agent.parameters()).detach()))
"""


@pytest.mark.slow
def test_the_wrapped_peer_trains_one_policy_on_two_ranks(tmp_path: Path) -> None:
    ranks = run_ranks(2, "horovodrun", WRAPPED, tmp_path)

    (size, before, after), (_, _, others) = ranks.given
    assert size == 2
    assert not torch.equal(before, after)
    assert torch.equal(after, others)


def two_networks(rounds: int = 2) -> Row:
    both = TINY.peer("plain", "plain_ppo"), TINY.peer("larger", "plain_ppo", "--hidden", "512")
    claims = (Claim("plain", "larger"),)
    return Row("9", "Two networks", "env_steps_per_second", "env steps/s", both, claims, rounds)


@pytest.mark.slow
def test_contestants_take_turns() -> None:
    said: list[str] = []

    scores = two_networks().run(seconds=0.02, say=said.append)

    assert [line.split(": ")[1] for line in said] == ["plain", "larger", "plain", "larger"]
    assert [len(score.values) for score in scores] == [2, 2]
    assert min(scores[0].values) > 0


@pytest.mark.slow
def test_a_contestant_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="unrecognized arguments: --no-such"):
        Contestant("lost", "tests.benchmarks.plain_ppo", ("--no-such",)).run(0)


def test_a_ratio_is_that_of_the_medians_and_is_judged_by_its_bound() -> None:
    scores = [Score("a", "", [2.0, 9.0, 3.0]), Score("b", "", [1.0, 2.0, 1.0])]

    least = Verdict.on(Claim("a", "b", at_least=3.0), scores)
    most = Verdict.on(Claim("a", "b", at_most=2.9), scores)

    assert (least.ratio, least.low, least.high) == (3.0, 2.0, 4.5)
    assert least.holds is True and most.holds is False
    assert Verdict.on(Claim("a", "b"), scores).holds is None


@pytest.mark.slow
def test_the_table_tells_what_was_measured_and_keeps_other_rows(tmp_path: Path) -> None:
    (result,) = two_networks(rounds=1).measure("make bench ROWS=9", seconds=0.02)
    save(tmp_path, {"9": result})
    kept = load(tmp_path)
    save(tmp_path, {**kept, "8": result})

    table = (tmp_path / "RESULTS.md").read_text()
    assert kept == {"9": result}
    assert table.count("Two networks") == 2
    median = f"| plain | {number(result.scores[0].median)} |"
    for said in (median, "`make bench ROWS=9`", result.birth.date, result.birth.commit, result.birth.cpu):
        assert said in table
    assert 0.0 <= result.birth.others < 64.0 and result.birth.load_during >= result.birth.load_before


def test_every_claim_is_about_contestants_of_its_row() -> None:
    for row in (row for row in rows().values() if isinstance(row, Row)):
        names = [contestant.name for contestant in row.contestants]
        assert len(set(names)) == len(names)
        assert {name for claim in row.claims for name in (claim.of, claim.against)} <= set(names)


def test_a_row_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "--rows", "77", "--output", str(tmp_path)]

    ran = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)

    assert ran.returncode == 2
    assert ran.stderr.startswith("make bench: there is no row 77; ROWS may be some of 1,2a,2b,3")


@pytest.mark.slow
def test_the_docs_quote_what_was_measured(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{quoting.mark(COMMAND)}\nold\n{quoting.END}\nafter\n")
    judged = replace(two_networks(rounds=1), claims=(Claim("plain", "larger", at_least=1e9),))
    (result,) = judged.measure("make bench", seconds=0.02)

    quoting.quote(page, COMMAND, summary({"9": result}))

    medians = "<br>".join(f"{score.name}: {number(score.median)} env steps/s" for score in result.scores)
    ratio = result.scores[0].median / result.scores[1].median
    text = page.read_text()
    assert f"| Two networks | {medians} | plain / larger: {ratio:.2f} (at least 1e+09: missed) |" in text
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text


def test_the_readmes_rows_are_some_of_the_whole_tables() -> None:
    results = load(ROOT / "tests" / "benchmarks")
    whole, rows = summary(results).splitlines(), face(results).splitlines()[2:-2]

    assert len(rows) == len(FACE) <= 6
    for line in rows:
        title, medians, ratio = line.strip("| ").split(" | ")
        (full,) = [row for row in whole if row.startswith(f"| {title} |")]
        assert all(median in full for median in medians.split("<br>")) and ratio in full


TURNS = """
import argparse, json, pathlib
parser = argparse.ArgumentParser()
for name in ("--seed", "--rounds", "--json"):
    parser.add_argument(name)
args = parser.parse_args()
ours = {"name": "ours", "command": "wide", "values": [3.0] * int(args.rounds)}
bound = {"name": "bound", "command": "", "values": [2.0, 2.5]}
claims = [{"of": "ours", "against": "bound", "at_most": 1.4}]
row = {"key": "8a", "title": "Wide", "unit": "s", "scores": [ours, bound], "claims": claims}
pathlib.Path(args.json).write_text(json.dumps({"rows": [row]}))
"""


def test_rows_of_a_module_that_takes_its_own_turns_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "turns.py").write_text(TURNS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    (result,) = Joined("8", "turns").measure("make bench", rounds=2)

    assert (result.key, result.scores[0].values) == ("8a", [3.0, 3.0])
    (verdict,) = result.verdicts
    assert verdict.ratio == pytest.approx(3.0 / 2.25) and verdict.holds and verdict.target == "at most 1.4"


@pytest.mark.slow
def test_compressors_are_timed_beside_a_copy(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.compressing", "--side=300", "--seconds=0", "--rounds=1"]
    subprocess.run([*command, "--json=found.json"], cwd=tmp_path, env=environment(), check=True)
    large, small = read_json(tmp_path / "found.json")["rows"]
    for row in (large, small):
        scores = {score["name"]: score["values"] for score in row["scores"]}
        assert scores["memcpy"][0] > 0 and {"int8", "top_k", "powersgd"} <= set(scores)
    assert {claim["of"] for claim in large["claims"]} == {"int8", "top_k", "powersgd"}


@pytest.mark.slow
def test_stepping_environments_has_its_rows() -> None:
    results = Joined("7", "tests.benchmarks.environments").measure("make bench", rounds=2, seconds=0.02)
    claimed = {result.title: verdict for result in results for verdict in result.verdicts}
    assert claimed["One step of 64 environments of CartPole-v1"].target == "at most 1.2"
    assert all(len(score.values) == 2 and min(score.values) > 0 for result in results for score in result.scores)
