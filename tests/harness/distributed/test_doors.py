"""A synchronizer and a compressor of the user's own, as docs/extending.md has them: from a file, by `module:Class`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config import load_run_config
from harness.distributed.mesh import mesh_on_one_channel
from harness.distributed.sync import make_synchronizer
from harness.distributed.transports.base import Alone
from harness.errors import BadInput
from tests.command import ROOT
from tests.multirank.launch import run_ranks
from tests.test_readme import write_files

RUN = ["run.steps=1536", "env.count=4", "algorithm.rollout_steps=128", "compile.mode=off", "logging.tensorboard=false"]
RUN += ["evaluation.count=1", "evaluation.episodes=2", "evaluation.final_episodes=2", "sync.path=mpi"]
SCRIPT = """
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest import mock
from harness.config import load_run_config
from harness.distributed.agreement import check_equal
from harness.errors import RanksDisagree
from harness.run.loop import Run
from harness.run.train import train
from tests.multirank.launch import give

iterated, settled = [], []

def equal(run):
    try:
        check_equal(run.communicator, run._parameters())
        return True
    except RanksDisagree:
        return False

def noting(name, before, after):
    method = getattr(Run, name)
    def noted(run, *given):
        before is None or before.append(equal(run))
        result = method(run, *given)
        after is None or after.append(equal(run))
        return result
    return mock.patch.object(Run, name, noted)

inside = Run.settled_policy

@contextmanager
def settled_policy(run):
    with inside(run):
        settled.append(equal(run))
        yield

with noting("_evaluate_where_due", iterated, None), mock.patch.object(Run, "settled_policy", settled_policy):
    result = train(load_run_config("ppo-cartpole", sys.argv[2:]), Path(sys.argv[1]))
give((result.status, result.reason, iterated, settled))
"""


def trained(tmp_path: Path, *settings: str) -> tuple[list[Any], str]:
    """What two ranks give who train PPO for three iterations, and what they print."""
    write_files((ROOT / "docs" / "extending.md").read_text(), tmp_path)
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    ranks = run_ranks(2, "mpirun", SCRIPT, tmp_path, str(tmp_path / "run"), *RUN, *settings, env=env)
    return list(ranks.given), ranks.output


def test_ranks_that_average_their_weights_now_and_then_are_one_policy_once_settled(tmp_path: Path) -> None:
    given, output = trained(tmp_path, "sync.kind=averaging:Averaging", "sync.kwargs={every=17}")
    for status, reason, iterated, settled in given:
        assert (status, reason) == ("done", None)
        assert iterated == [False] * 3, "an iteration's steps are no multiple of 17"
        assert settled and all(settled)
    assert "another experiment" in output


def test_gradients_rounded_to_bfloat16_keep_the_ranks_equal(tmp_path: Path) -> None:
    given, output = trained(tmp_path, "compression.kind=rounding:Rounded", "sync.check_every=1")
    for status, reason, iterated, settled in given:
        assert (status, reason) == ("done", None)
        assert iterated == [True] * 3 and all(settled)
    assert "another experiment" in output


def test_a_compressor_sums_in_place_and_says_how_much_it_sent(tmp_path: Path, monkeypatch) -> None:
    write_files((ROOT / "docs" / "extending.md").read_text(), tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    from rounding import Rounded  # type: ignore[import-not-found]

    vector = torch.randn(1000)
    rounded, compressor = vector.bfloat16().float(), Rounded()
    compressor.all_reduce_(vector, Alone())
    assert torch.equal(vector, rounded) and compressor.bytes_on_the_wire() == 2000


@pytest.mark.parametrize(
    "settings, words",
    [
        (["sync.kind=averaging:Nothing"], ["sync.kind", "'Nothing'"]),
        (["compression.kind=nowhere:Rounded"], ["compression.kind", "'nowhere'"]),
        (["sync.kind=averaging:Averaging", "compression.kind=rounding:Rounded"], ["compression.kind must be 'none'"]),
    ],
)
def test_what_is_not_there_or_does_not_go_together_is_refused(
    settings: list[str], words: list[str], tmp_path: Path, monkeypatch
) -> None:
    write_files((ROOT / "docs" / "extending.md").read_text(), tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    config = load_run_config("ppo-cartpole", settings)
    with pytest.raises(BadInput) as refused:
        make_synchronizer(config.sync, config.compression, mesh_on_one_channel(Alone()))
    assert all(word in str(refused.value) for word in words)
