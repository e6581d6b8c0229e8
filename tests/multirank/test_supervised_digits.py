"""`harness train supervised-digits`: good on one rank and on two, and the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.files import read_json
from tests.command import harness


def train(folder: Path, *arguments: str) -> Path:
    ran = harness("train", "supervised-digits", "logging.tensorboard=false", *arguments, "--output", "run", cwd=folder)
    assert ran.code == 0, ran.out + ran.err
    return folder / "run"


@pytest.fixture(scope="module")
def accuracy_alone(tmp_path_factory: pytest.TempPathFactory) -> float:
    return read_json(train(tmp_path_factory.mktemp("alone")) / "result.json")["value"]


@pytest.mark.slow
def test_one_rank_reaches_its_accuracy(accuracy_alone: float) -> None:
    assert accuracy_alone >= 0.96


@pytest.mark.slow
def test_two_ranks_reach_the_same(accuracy_alone: float, tmp_path: Path) -> None:
    run = train(tmp_path, "--ranks", "2", "--launcher", "horovodrun")
    result = read_json(run / "result.json")
    assert (result["status"], result["ranks"], result["sync_path"]) == ("done", 2, "mpi")
    assert (result["env_steps"], result["gradient_steps"], result["eval_episodes"]) == (30 * 1077, 30 * 17, 360)
    assert result["value"] >= 0.96
    assert abs(result["value"] - accuracy_alone) <= 0.01


def test_two_ranks_shuffle_augment_and_normalise_as_one(tmp_path: Path) -> None:
    """Two epochs of what rounding does not make chaotic: no ReLU, no Adam where gradients are all but 0."""
    short = ["algorithm.epochs=2", "evaluation.count=1", "algorithm.augment=true"]
    smooth = ["network.activation=silu", "optimizer.name=sgd", "optimizer.lr=0.05", "optimizer.momentum=0.9"]
    found = []
    for number, ranks in enumerate(([], ["--ranks", "2", "--launcher", "mpirun", "sync.path=mpi"])):
        (folder := tmp_path / str(number)).mkdir()
        state = train(folder, *short, *smooth, *ranks) / "checkpoints" / "latest" / "state.pt"
        module = torch.load(state, weights_only=True)["trainer"]["model"]
        found.append(torch.cat([tensor.double().flatten() for tensor in module.values()]))
    alone, together = found
    assert not torch.equal(alone, together)  # it was not the same computation
    assert (alone - together).norm() <= 1e-5 * alone.norm()
