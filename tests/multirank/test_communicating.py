"""Every call of a communicator, by every transport: its result, and that hang detection sees who waits in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from harness.distributed.mesh import Share
from harness.distributed.transports.base import Capability
from tests.command import ROOT
from tests.conftest import slow
from tests.multirank.launch import WAYS, run_ranks

SCRIPT = Path(__file__).with_name("communicating.py")
RESULTS = {
    "all_reduce_": [3.0] * 4,
    "large all_reduce_": [2.0] * 3,
    "broadcast_": [2.0] * 4,
    "gather_objects": [0, 1],
    "broadcast_object": "from 1",
    "agree": {"most": 1.0},
    "reduce_scatter_": [[0.0, 3.0], [6.0, 9.0]],
    "all_to_all_": [0.0, 10.0],
    "start_all_reduce": [3.0] * 4,
}


@pytest.fixture(scope="module", params=["mpi", "horovod-gloo", slow("horovod-mpi")])
def way(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def given(way: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    launcher, sync_path = WAYS[way]
    return run_ranks(2, launcher, SCRIPT, tmp_path_factory.mktemp(way), sync_path=sync_path).given


@pytest.mark.parametrize("group", ["world", "control"])
@pytest.mark.parametrize("call", RESULTS)
def test_a_call_gives_its_result_and_only_who_waits_in_it_is_seen_to_wait(
    call: str, group: str, given: tuple[Any, ...]
) -> None:
    for rank, found in enumerate(given):
        seen_in_it, seen_elsewhere, result = found[group][call]
        assert (result if not hasattr(result, "tolist") else result.tolist()) == RESULTS[call]
        assert seen_in_it, "rank 0 waits for rank 1, which comes when this is seen"
        assert not seen_elsewhere, f"rank {rank} was seen to wait outside the call"


def test_two_ranks_talk_where_the_transport_can(way: str, given: tuple[Any, ...]) -> None:
    can = Capability.POINT_TO_POINT in given[0]["can"]
    assert can == (way == "mpi")
    assert [rank["messages"] for rank in given] == ([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]] if can else [None, None])


def test_groups_of_ranks_have_channels_of_their_own_where_the_transport_can(way: str, given: tuple[Any, ...]) -> None:
    for rank, found in enumerate(given):
        (same, members, name), part = found["groups"]
        assert (same, members, name) == (way != "mpi", (0, 1), "twin" if way == "mpi" else "world")
        assert part == (("part", (rank,), 0, 1.0) if way == "mpi" else None)


def test_the_mesh_of_one_axis_shares_out_over_all_ranks(given: tuple[Any, ...]) -> None:
    assert [rank["mesh"] for rank in given] == [
        (Share(0, 3, 5), True, (0,), True),
        (Share(3, 2, 5), False, (1,), True),
    ]


OWN = """
from harness.distributed.transports.mpi import MpiTransport

class Own(MpiTransport):
    def refuses(self, place, device):
        return "it is of no use" if place.launcher != "mpi" else None
"""
SUM = """
import torch
from harness.errors import BadInput
from tests.multirank.launch import give, join
try:
    world, communicator = join()
    give((communicator.transport, communicator.all_reduce_(torch.ones(1)).item()))
    world.stop()
except BadInput as refused:
    give(str(refused))
"""


@pytest.mark.parametrize("launcher", ["mpirun", "horovodrun-gloo"])
def test_a_transport_of_the_users_own_carries_the_ranks_or_is_refused_in_a_line(launcher: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    given = run_ranks(2, launcher, SUM, tmp_path, sync_path="own:Own", env=env).given
    refusal = "sync.path = 'own:Own': it is of no use; it may be 'auto' or 'horovod'"
    assert given == ((("own:Own", 2.0),) * 2 if launcher == "mpirun" else (refusal,) * 2)
