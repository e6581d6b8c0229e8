"""On a GPU: graphs against kernels launched one by one, in every arithmetic, by a convolutional network on bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.algorithms import Context
from harness.algorithms.ppo import PPO
from harness.config import load_run_config
from harness.distributed.transports.base import Alone, Communicator
from harness.envs import make_environments
from harness.reporting import PhaseTimer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
GRAPHS = ["gradient eager (compile.mode = off)", "gradient and update one CUDA graph", "acting one CUDA graph"]
CONFIG = """
[run]
steps = 102400
[env]
id = "tests.atari_shaped:Screens-v0"
count = 8
[algorithm]
name = "ppo"
rollout_steps = 32
minibatch_size = 64
entropy_coefficient = 0.01
[network]
hidden = [512]
"""


class OfTwo(Alone):
    """A rank that believes to be one of two, and reduces nothing: its gradient and its update are graphs apart."""

    size = 2

    def gather_objects(self, value: Any) -> list[Any]:
        return [value, value]


def make(folder: Path, *overrides: str, communicator: Communicator = Alone()) -> PPO:
    (folder / "run.toml").write_text(CONFIG)
    config = load_run_config(str(folder / "run.toml"), ["compile.mode=off", *overrides])
    assert config.env is not None
    play = lambda act, episodes, final: np.zeros(episodes)  # noqa: E731
    return PPO(Context(config, communicator, DEVICE, PhaseTimer(), make_environments(config.env, 0, 1), play))


@pytest.fixture(autouse=True)
def the_same_kernels_each_time() -> Any:
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = False


def assert_close(one: PPO, other: PPO, start: torch.Tensor, bound: float) -> None:
    moved = torch.linalg.vector_norm(one.learner.step.arena.parameters - start)
    apart = torch.linalg.vector_norm(one.learner.step.arena.parameters - other.learner.step.arena.parameters)
    assert moved > 0.05 and apart <= bound * moved
    assert one.learner.precision.state() == other.learner.precision.state()
    assert (one.learner.step.gradient_steps, one.learner.step.skipped_steps) == (
        other.learner.step.gradient_steps,
        other.learner.step.skipped_steps,
    )


def same_rollout(ppos: list[PPO], iteration: int) -> None:
    """What the first collects is what all of them have."""
    ppos[0].collector.collect(iteration)
    for other in ppos[1:]:
        for name in ("observations", "actions", "log_probs", "values", "advantages", "returns"):
            getattr(other.rollout, name)[:] = getattr(ppos[0].rollout, name)


@pytest.mark.parametrize(("kind", "bound"), [("fp32", 1e-3), ("bf16", 2e-2), ("fp16", 2e-2)])
def test_graphs_do_what_their_kernels_do_one_by_one_and_what_the_host_would_decide(
    kind: str, bound: float, tmp_path: Path
) -> None:
    """With a loss scale that is too high at first, and grows until it is again."""
    fp16 = ["precision.initial_scale=1048576.0", "precision.growth_interval=5"] if kind == "fp16" else []
    graphs = make(tmp_path, f"precision.kind={kind}", *fp16)
    eager, host = (make(tmp_path, f"precision.kind={kind}", "compile.capture=false", *fp16) for _ in range(2))
    host.loop = host.learner.make_loop(host.kl_stop, on_device=False)
    assert graphs.notices() == GRAPHS
    start = host.learner.step.arena.parameters.clone()
    assert torch.equal(graphs.learner.step.arena.parameters, start), "making the graphs leaves no trace"
    found: dict[PPO, dict[str, float]] = {}
    for iteration in range(3):
        same_rollout([graphs, eager, host], iteration)
        for ppo in (graphs, eager, host):
            found[ppo] = ppo.update(iteration)
    for other in (eager, host):
        assert_close(graphs, other, start, bound)
        assert found[graphs] == pytest.approx(found[other], rel=0.05, abs=1e-2, nan_ok=True)
    assert graphs.learner.step.gradient_steps + graphs.learner.step.skipped_steps == 3 * 16
    assert (graphs.learner.step.skipped_steps > 0) == (kind == "fp16")


def test_two_graphs_around_a_reduce_do_what_one_does(tmp_path: Path) -> None:
    one, two = make(tmp_path), make(tmp_path, communicator=OfTwo())
    assert two.notices()[1] == "gradient and update two CUDA graphs"
    start = one.learner.step.arena.parameters.clone()
    same_rollout([one, two], 0)
    one.update(0), two.update(0)
    assert_close(one, two, start, 1e-3)


def test_a_stop_on_kl_inside_a_graph_is_the_hosts(tmp_path: Path) -> None:
    graphs, host = (make(tmp_path, "algorithm.target_kl=0.001", "optimizer.lr=0.002") for _ in range(2))
    host.loop = host.learner.make_loop(host.kl_stop, on_device=False)
    start = host.learner.step.arena.parameters.clone()
    same_rollout([graphs, host], 0)
    ours, theirs = graphs.update(0), host.update(0)
    assert ours["gradient_steps"] == theirs["gradient_steps"] < 16
    assert graphs.learner.learning_rate.value == host.learner.learning_rate.value
    assert_close(graphs, host, start, 1e-2)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop", "adagrad"])
def test_graphs_go_on_from_a_state_that_was_loaded(name: str, tmp_path: Path) -> None:
    """Into the tensors that they hold. The other one has no graphs; Adagrad's step has none."""
    settings = (f"optimizer.name={name}", "precision.kind=fp16", "optimizer.schedule=linear")
    graphs, eager = make(tmp_path, *settings), make(tmp_path, *settings, "compile.capture=false")
    assert ("kernel by kernel" in graphs.notices()[1]) == (name == "adagrad")
    eager.iterate(0)
    graphs.iterate(0)
    start = eager.learner.step.arena.parameters.clone()
    graphs.load_state(eager.state())
    assert torch.equal(graphs.learner.step.arena.parameters, start)
    same_rollout([eager, graphs], 1)
    eager.update(1), graphs.update(1)
    moved = torch.linalg.vector_norm(eager.learner.step.arena.parameters - start)
    apart = torch.linalg.vector_norm(eager.learner.step.arena.parameters - graphs.learner.step.arena.parameters)
    assert moved > 0 and apart <= 2e-2 * moved
    assert eager.learner.precision.state() == graphs.learner.precision.state()


def test_a_compiled_gradient_below_the_graphs(tmp_path: Path) -> None:
    compiled, graphs = make(tmp_path, "compile.mode=on"), make(tmp_path)
    assert compiled.notices()[0] == "gradient compiled (compile.mode = on)"
    assert compiled.notices()[1:] == GRAPHS[1:]
    start = graphs.learner.step.arena.parameters.clone()
    same_rollout([graphs, compiled], 0)
    graphs.update(0), compiled.update(0)
    assert_close(graphs, compiled, start, 1e-2)


def test_it_learns_with_graphs(tmp_path: Path) -> None:
    """The shade of a screen names the action that is rewarded: chance gives 0.25 a step."""
    ppo = make(tmp_path, "precision.kind=bf16", "algorithm.gamma=0.5")
    rewards = []
    for iteration in range(40):
        ppo.iterate(iteration)
        rewards.append(float(ppo.rollout.true_rewards.mean()))
    assert np.mean(rewards[:2]) < 0.4 and np.mean(rewards[-5:]) > 0.7
