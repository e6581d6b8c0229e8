"""A process trains twice, one run after another, and the second finds nothing of the first."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.lifecycle.checkpoints import checkpoint
from tests.command import ROOT, environment
from tests.conftest import slow

FIRST, MORE = 8, 20
AT_MOST = 64 * 2**20
"""Bytes that MORE runs may add. One of them has parameters, gradients and moments of 5 MB (DQN) or 8 MB: if all stayed,
that would be 130 MB. What they do add, up to 35 MB and nothing after some 25 runs, comes of how the C library cuts
the memory that it keeps."""


def train_in_one_process(folder: Path, *words: str) -> None:
    command = [sys.executable, "-m", "tests.harness.run.several_runs", str(folder), *words]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr


def learned(run_dir: Path) -> dict[str, Any]:
    """All that the run's last checkpoint and its metrics hold, but what the clock has given."""
    found = checkpoint.load(run_dir / "checkpoints" / "latest")
    assert found is not None
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {
        "state": found.state,
        "ranks": [found.part(part)[0].own for part in found.parts],
        "metrics": [{name: value for name, value in line.items() if name != "seconds"} for line in lines],
        "value": json.loads((run_dir / "result.json").read_text())["value"],
    }


def assert_equal(one: Any, other: Any, where: str) -> None:
    """To the bit."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other)):
            assert_equal(*pair, f"{where}[{number}]")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and one.shape == other.shape, where
        assert one.numpy().tobytes() == other.numpy().tobytes(), where
    elif hasattr(one, "tobytes"):
        assert one.tobytes() == other.tobytes(), where
    else:
        assert repr(one) == repr(other), where


@pytest.mark.parametrize("names", [("ppo", "dqn"), slow(("dqn", "again")), slow(("supervised", "ppo"))])
def test_runs_in_one_process_are_those_of_a_process_each(tmp_path: Path, names: tuple[str, ...]) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    train_in_one_process(together, *names)
    for name in names:
        train_in_one_process(alone, name)
        assert_equal(learned(together / name), learned(alone / name), name)


@pytest.mark.slow
def test_twenty_runs_leave_nothing_in_their_process(tmp_path: Path) -> None:
    train_in_one_process(tmp_path, "--often", str(FIRST), str(MORE))
    left = json.loads((tmp_path / "left.json").read_text())
    before, after = left["memory"]
    assert after - before < AT_MOST, f"{(after - before) / 2**20:.1f} MB more"
    before, after = left["in use"]
    assert before == after
