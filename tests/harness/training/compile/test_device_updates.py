"""Steps decided on the device against those decided on the host, on the same stored minibatches; and their graphs."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness.algorithms.common.on_policy import DATA
from harness.algorithms.ppo import NUMBERS, PPO, STATISTICS
from harness.errors import Diverged
from harness.training.compile import device_updates
from harness.training.compile.cuda_graphs import WARM_UPS
from harness.training.compile.device_updates import DeviceUpdateLoop
from harness.training.learner import HostUpdateLoop
from harness.training.updates import KlStop, Minibatch, UpdateLoop, UpdateSummary
from tests.harness.training.compile.test_gradient import make

KL_AT = STATISTICS.index("kl")


def on_host(ppo: PPO, limit: float | None = None) -> UpdateLoop:
    return HostUpdateLoop(ppo.learner, KlStop(KL_AT, limit))


def on_device(ppo: PPO, limit: float | None = None) -> DeviceUpdateLoop:
    sizes = {len(part) for part in ppo.minibatch_plan(0, 0)[0]}
    return DeviceUpdateLoop(
        ppo.learner.step, ppo.loss, ppo.data, NUMBERS, sorted(sizes), KlStop(KL_AT, limit), capture=False
    )


def minibatches(ppo: PPO, stored: PPO, count: int = 50) -> list[Minibatch]:
    """`count` minibatches, four an epoch, of what `stored` has collected, which `ppo` then has too."""
    for name in DATA:
        ppo.data[name].copy_(stored.data[name])
    plan = [ppo.minibatch_plan(0, epoch)[0] for epoch in range(-(-count // 4))]
    found = []
    for part in [part for parts in plan for part in parts][:count]:
        advantages = stored.data["advantages"].numpy()[part]
        moments = float(advantages.mean()), float(advantages.std())
        found.append(Minibatch(part, (0.2, *moments, *ppo.coefficients), 1.0))
    return found


def run(ppo: PPO, steps: UpdateLoop, batches: list[Minibatch]) -> UpdateSummary:
    steps.begin(batches, 4)
    for number in range(len(batches)):
        steps.gradient(number)
        ppo.learner.step.reduce()
        if not steps.apply(number):
            break
    return steps.finish()


def assert_equal(one: PPO, other: PPO, start: torch.Tensor, of_one: UpdateSummary, of_other: UpdateSummary) -> None:
    moved = torch.linalg.vector_norm(one.learner.step.arena.parameters - start)
    apart = torch.linalg.vector_norm(one.learner.step.arena.parameters - other.learner.step.arena.parameters)
    assert moved > 0.05 and apart <= 1e-4 * moved
    assert one.learner.precision.state() == other.learner.precision.state()
    assert (one.learner.step.gradient_steps, one.learner.step.skipped_steps) == (
        other.learner.step.gradient_steps,
        other.learner.step.skipped_steps,
    )
    counts = (of_one.batches, of_one.taken, of_one.stopped)
    assert counts == (of_other.batches, of_other.taken, of_other.stopped)
    np.testing.assert_allclose(of_one.means, of_other.means, rtol=1e-3, atol=1e-5)


OPTIMIZERS = ["adam", "adamw", "sgd", "rmsprop", "adagrad"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fifty_steps_with_overflow_are_the_same_decided_on_the_device(name: str, tmp_path: Path) -> None:
    """The loss scale begins too high, so that the first steps overflow, and grows until others do in the midst."""
    settings = ["precision.kind=fp16", "precision.initial_scale=1048576.0", "precision.growth_interval=6"]
    settings += [f"optimizer.name={name}", "optimizer.lr=0.003", "optimizer.weight_decay=0.01"]
    settings += ["optimizer.momentum=0.9"] if name in ("sgd", "rmsprop") else []
    # whose first steps are ten times the rate, and then nothing is left of what one number's rounding was
    settings += ["optimizer.lr=0.0003"] if name == "rmsprop" else []
    host, device, stored = (make(tmp_path, "compile.mode=off", *settings) for _ in range(3))
    stored.collector.collect(0)
    start = host.learner.step.arena.parameters.clone()
    of_host = run(host, on_host(host), minibatches(host, stored))
    of_device = run(device, on_device(device), minibatches(device, stored))
    assert of_host.taken > 30 and host.learner.step.skipped_steps > 3
    assert_equal(host, device, start, of_host, of_device)


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_a_stop_on_kl_is_the_same_decided_on_the_device(kind: str, tmp_path: Path) -> None:
    """In the midst of an epoch: what follows until the host looks changes nothing. The next rollout goes on."""
    settings = (f"precision.kind={kind}", "optimizer.lr=0.003", "compile.mode=off")
    host, device, stored = (make(tmp_path, *settings) for _ in range(3))
    stored.collector.collect(0)
    start = host.learner.step.arena.parameters.clone()
    limit = 0.002
    its_own, its_other = on_host(host, limit), on_device(device, limit)
    for first in (0, 20):
        of_host = run(host, its_own, minibatches(host, stored)[first:])
        of_device = run(device, its_other, minibatches(device, stored)[first:])
        assert of_host.stopped and (of_host.batches + 1) % 4
        assert of_device.kl == pytest.approx(of_host.kl, rel=1e-2)
        assert_equal(host, device, start, of_host, of_device)


@pytest.mark.parametrize(
    ("kind", "what"),
    [("fp32", "non-finite loss"), ("fp16", "non-finite gradient at every loss scale down to 1")],
)
def test_what_diverges_diverges_on_the_device_too(kind: str, what: str, tmp_path: Path) -> None:
    settings = (f"precision.kind={kind}", "compile.mode=off")
    host, device, stored = (make(tmp_path, *settings) for _ in range(3))
    stored.collector.collect(0)
    for ppo, steps in ((host, on_host(host)), (device, on_device(device))):
        ppo.learner.step.arena.parameters[-1] = math.inf  # the bias of the value
        before = ppo.learner.step.arena.parameters.clone()
        with pytest.raises(Diverged) as found:
            run(ppo, steps, minibatches(ppo, stored))
        assert str(found.value) == what
        assert torch.equal(ppo.learner.step.arena.parameters, before), "nothing was stepped"
    assert host.learner.precision.state() == device.learner.precision.state()


def test_a_gradient_that_is_not_finite_is_divergence_without_a_loss_scale(tmp_path: Path) -> None:
    """The loss is finite, its gradient is not: that of the square root at 0."""
    for make_steps in (on_host, on_device):
        ppo = make(tmp_path, "compile.mode=off")
        ppo.collector.collect(0)
        loss = ppo.loss
        zero = ppo.learner.step.arena.members[0]
        broken = lambda batch: (loss(batch)[0] + (0.0 * zero).sum().sqrt(), loss(batch)[1])  # noqa: E731
        ppo.loss = ppo.learner.loss = broken  # type: ignore
        with pytest.raises(Diverged, match="^non-finite gradient$"):
            run(ppo, make_steps(ppo), minibatches(ppo, ppo, 4))


class Recorded:
    """Stands in for a graph: the calls before a capture, and the function itself instead of its kernels."""

    def __init__(self, function: Callable[[], None], device: torch.device) -> None:
        for _ in range(WARM_UPS):
            function()
        self.function = function

    def __call__(self) -> None:
        self.function()


@pytest.mark.parametrize(("ranks", "graphs"), [(1, "one CUDA graph"), (2, "two CUDA graphs")])
@pytest.mark.parametrize("name", ["adam", "sgd", "rmsprop"])
def test_what_is_captured_is_the_step_and_making_it_leaves_no_trace(
    name: str, ranks: int, graphs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where this rank's minibatches have two sizes."""
    monkeypatch.setattr(device_updates, "Captured", Recorded)
    settings = ("env.count=3", "algorithm.rollout_steps=10", "algorithm.minibatch_size=8", f"optimizer.name={name}")
    settings += ("optimizer.momentum=0.9", "optimizer.lr=0.003") if name != "adam" else ()
    ppo, plain = (make(tmp_path, "compile.mode=off", *settings) for _ in range(2))
    ppo.learner.step.communicator = SimpleNamespace(  # type: ignore[assignment]
        size=ranks, gather_objects=lambda value: [value] * ranks, all_reduce_=lambda tensor, name: tensor
    )
    start = plain.learner.step.arena.parameters.clone()
    ppo.loop = ppo.learner.make_loop(ppo.kl_stop, on_device=True)
    assert len(ppo.learner.sizes) > 1 and ppo.loop.notice == f"gradient and update {graphs}"
    assert torch.equal(ppo.learner.step.arena.parameters, start) and not ppo.learner.step.arena.wire.any()
    for iteration in range(2):
        ppo.iterate(iteration), plain.iterate(iteration)
    moved = torch.linalg.vector_norm(plain.learner.step.arena.parameters - start)
    apart = torch.linalg.vector_norm(plain.learner.step.arena.parameters - ppo.learner.step.arena.parameters)
    assert moved > 0 and apart <= 1e-4 * moved
    assert ppo.learner.step.gradient_steps == plain.learner.step.gradient_steps == 32


def test_what_cannot_be_captured_is_launched_one_by_one_and_says_why(tmp_path: Path) -> None:
    """The CPU has no graphs."""
    ppo, stored = make(tmp_path, "compile.mode=off"), make(tmp_path, "compile.mode=off")
    assert ppo.notices() == ["gradient eager (compile.mode = off)"], "on the CPU there is nothing to be captured"
    before = ppo.learner.step.arena.parameters.clone()
    ppo.loop = ppo.learner.make_loop(ppo.kl_stop, on_device=True)
    assert torch.equal(ppo.learner.step.arena.parameters, before), "attempts leave no trace"
    assert ppo.notices()[1] == "gradient and update launched kernel by kernel (RuntimeError: cpu has no graphs)"
    ours, theirs = ppo.iterate(0), stored.iterate(0)
    assert ours.gradient_steps == theirs.gradient_steps == 16
    assert ours.metrics == pytest.approx(theirs.metrics, rel=1e-3, abs=1e-5)
    torch.testing.assert_close(
        ppo.learner.step.arena.parameters, stored.learner.step.arena.parameters, rtol=1e-4, atol=1e-6
    )
