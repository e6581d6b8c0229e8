"""The measurement for a GPU, as far as a machine without one can show it."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from tests.benchmarks import gpu
from tests.benchmarks.gpu import WAYS, Contestant, verdict

CPU = torch.device("cpu")
SIZES = {"envs": 2, "steps": 4, "minibatch": 4}


@pytest.mark.parametrize("way", [way for way in WAYS if way != "compiled"])
def test_a_contestant_takes_every_step_and_counts_it(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two minibatches, four epochs; a clock that finds 10 of everything a second."""
    contestant = Contestant(way, "fp32", CPU, SIZES)
    assert contestant.ppo.learner.step.gradient_steps == 3 * 8, "three iterations to warm up"
    monkeypatch.setattr(gpu, "per_second", lambda work, device, seconds: 10.0 if work() else 0.0)
    contestant.measure(0.0)
    assert contestant.ppo.learner.step.gradient_steps == 5 * 8
    row = contestant.row()
    assert (row.gradient_steps_per_second, row.env_steps_per_second, row.spread) == (10 * 8, 10 * 8, 0.0)
    assert (row.card, row.precision, row.way) == ("none: CPU", "fp32", way)


def test_work_is_timed() -> None:
    assert gpu.per_second(lambda: time.sleep(0.01), CPU, 0.2) == pytest.approx(95, rel=0.2)


def test_the_verdict_is_on_the_captured_bf16_against_the_faster_eager_fp32() -> None:
    eager = Contestant("eager", "fp32", CPU, SIZES)
    eager.measure(0.01)
    slow = replace(eager.row(), gradient_steps_per_second=80.0)
    fast = replace(slow, way="host", gradient_steps_per_second=100.0)
    captured = replace(slow, way="captured", precision="bf16", gradient_steps_per_second=290.0)
    assert verdict([slow, fast, captured]).endswith("2.90 times the gradient steps of eager fp32; wanted 3: NOT MET")
    assert verdict([slow, replace(fast, gradient_steps_per_second=90.0), captured]).endswith("wanted 3: met")
    assert "not both were measured" in verdict([slow, fast])


def test_without_a_gpu_it_says_so_in_one_line() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    ran = subprocess.run([sys.executable, "-m", "tests.benchmarks.gpu"], capture_output=True, text=True, check=True)
    assert ran.stdout.count("\n") == 1 and ran.stdout.startswith("no GPU here")
