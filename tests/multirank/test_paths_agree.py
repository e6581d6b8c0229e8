"""50 stored minibatches on two ranks: by MPI and by Horovod, eager and compiled, the same parameters."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.conftest import need
from tests.multirank.launch import WAYS, run_ranks

SCRIPT = Path(__file__).with_name("fifty_steps.py")
SETTINGS = ["ppo-cartpole", "env.count=4", "algorithm.rollout_steps=32", "algorithm.minibatch_size=32"]


@pytest.mark.slow
def test_mpi_and_horovod_eager_and_compiled_make_the_same_steps(tmp_path: Path) -> None:
    need(shutil.which("g++"), "a C++ compiler, g++")
    ends = {}
    for way in ("mpi", "horovod-mpi"):
        for mode in ("off", "on"):
            launcher, path = WAYS[way]
            arguments = *SETTINGS, f"compile.mode={mode}"
            given = run_ranks(2, launcher, SCRIPT, tmp_path / f"{way}-{mode}", *arguments, sync_path=path).given
            assert torch.equal(given[0]["end"], given[1]["end"])
            assert (given[0]["path"], given[0]["compiled"], given[0]["steps"]) == (path, mode == "on", 50)
            ends[way, mode] = given[0]
    first = ends["mpi", "off"]
    moved = (first["end"] - first["start"]).norm()
    assert moved > 0.1
    for other in ends.values():
        assert torch.equal(other["start"], first["start"])
        assert (other["end"] - first["end"]).norm() <= 1e-4 * moved
