"""The compiled gradient against the eager one, on the same stored minibatches; and when it is taken."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.algorithms import Context
from harness.algorithms.ppo import PPO
from harness.config import load_run_config
from harness.distributed.transports.base import Alone
from harness.envs import make_environments
from harness.reporting import PhaseTimer
from harness.schema import CompileSettings
from harness.training.compile.gradient import compile_in_turn, wants_compiling
from tests.conftest import need

CPU = torch.device("cpu")
CONFIG = """
[run]
steps = 40960
[env]
id = "{env}"
count = 4
[algorithm]
name = "ppo"
rollout_steps = 32
minibatch_size = 32
entropy_coefficient = 0.01
[network]
hidden = [32, 32]
"""


def make(folder: Path, *overrides: str, env: str = "CartPole-v1") -> PPO:
    (folder / "run.toml").write_text(CONFIG.format(env=env))
    config = load_run_config(str(folder / "run.toml"), overrides)
    assert config.env is not None
    play = lambda act, episodes, final: np.zeros(episodes)  # noqa: E731
    return PPO(Context(config, Alone(), CPU, PhaseTimer(), make_environments(config.env, 0, 1), play))


def fifty_steps(ppo: PPO, stored: PPO) -> tuple[torch.Tensor, torch.Tensor]:
    """Parameters before and after 50 minibatches of what `stored` has collected."""
    for name, values in ppo.data.items():
        values.copy_(stored.data[name])
    start = ppo.learner.step.arena.parameters.clone()
    plan = [ppo.minibatch_plan(0, epoch)[0] for epoch in range(13)]
    for part in [part for parts in plan for part in parts][:50]:
        advantages = stored.data["advantages"].numpy()[part]
        numbers = 0.2, float(advantages.mean()), float(advantages.std()), *ppo.coefficients
        ppo.learner.gradient(torch.from_numpy(part), 1.0, numbers)
        ppo.learner.step.reduce()
        ppo.learner.step.apply()
    assert ppo.learner.step.gradient_steps == 50
    return start, ppo.learner.step.arena.parameters


@pytest.mark.parametrize(
    ("env", "kind", "bound"),
    [("CartPole-v1", "fp32", 1e-4), ("Pendulum-v1", "fp32", 1e-4), ("CartPole-v1", "bf16", 5e-2)],
)
def test_fifty_compiled_steps_are_fifty_eager_ones(env: str, kind: str, bound: float, tmp_path: Path) -> None:
    need(shutil.which("g++"), "a C++ compiler, g++")
    eager, compiled = (
        make(tmp_path, f"compile.mode={mode}", f"precision.kind={kind}", env=env) for mode in ("off", "on")
    )
    assert eager.compiled is None and compiled.compiled is not None, compiled.learner.compile_reason
    stored = make(tmp_path, "compile.mode=off", env=env)
    stored.collector.collect(0)
    start, one = fifty_steps(eager, stored)
    same_start, other = fifty_steps(compiled, stored)
    assert torch.equal(start, same_start)
    moved = torch.linalg.vector_norm(one - start)
    assert moved > 0.1
    assert torch.linalg.vector_norm(one - other) <= bound * moved


def test_two_compiled_losses_of_different_sizes_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Nothing guards a compiled function: each must be its owner's own."""
    need(shutil.which("g++"), "a C++ compiler, g++")
    uneven = ("env.count=3", "algorithm.rollout_steps=10", "algorithm.minibatch_size=8", "compile.mode=on")
    first, second = make(tmp_path, *uneven), make(tmp_path, *uneven, "network.hidden=[16]")
    for ppo in (first, second, first):
        assert ppo.compiled is not None and len(ppo.compiled.functions) > 1
        ppo.collector.collect(0)
        for part in ppo.minibatch_plan(0, 0)[0]:
            ppo.learner.gradient(torch.from_numpy(part), 1.0, (0.2, 0.0, 1.0, *ppo.coefficients))
            compiled = ppo.learner.step.arena.wire.clone()
            ppo.learner.compiled, kept = None, ppo.learner.compiled
            ppo.learner.gradient(torch.from_numpy(part), 1.0, (0.2, 0.0, 1.0, *ppo.coefficients))
            ppo.learner.compiled = kept
            torch.testing.assert_close(compiled, ppo.learner.step.arena.wire, rtol=1e-3, atol=1e-5)


def test_what_cannot_be_compiled_is_eager_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(products: str) -> None:
        raise RuntimeError("no such instruction\nmore of it")

    failed = compile_in_turn(breaks, Alone(), "auto")  # type: ignore[arg-type]
    assert failed == (None, "compiling failed: RuntimeError: no such instruction")
    monkeypatch.setenv("CXX", "no-such-compiler")
    ppo = make(tmp_path, "compile.mode=on")
    assert ppo.notices() == ["gradient eager (no C++ compiler: no-such-compiler is not on the PATH)"]
    assert ppo.iterate(0).gradient_steps == 16


def test_auto_compiles_runs_that_are_long_enough(tmp_path: Path) -> None:
    need(shutil.which("g++"), "a C++ compiler, g++")
    auto, step = CompileSettings(), make(tmp_path, "compile.mode=off").learner.step
    assert wants_compiling(auto, 15_000, step)[0] and not wants_compiling(auto, 14_999, step)[0]
    assert wants_compiling(CompileSettings(mode="on"), 1, step) == (True, "compile.mode = on")
    assert wants_compiling(CompileSettings(mode="off"), 10**9, step) == (False, "compile.mode = off")
    step.sync.overlap = object()  # type: ignore[assignment]  # a large network between hosts
    assert not wants_compiling(auto, 10**9, step)[0] and wants_compiling(CompileSettings(mode="on"), 1, step)[0]
