"""Graphs of ranks: their weights keep the mean, and come to it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config import load_run_config
from harness.distributed.sync import synchronizer_class
from harness.distributed.sync.topologies import edges_of, weights_of
from harness.errors import BadInput

TOPOLOGIES = ("ring", "torus", "exponential", "one_peer_exponential", "complete")


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("size", [2, 3, 4, 6, 7, 8, 9])
def test_each_graph_keeps_the_mean_and_all_ranks_come_to_it(topology: str, size: int) -> None:
    if topology == "torus" and size in (2, 3, 7):
        with pytest.raises(ValueError, match=f"which {size} ranks do not fill"):
            edges_of(topology, size)
        return
    mixed = np.eye(size)
    for _ in range(800):
        for edges in edges_of(topology, size):
            matrix = weights_of(edges, size, push_sum=False)
            assert all(sum(row) == 1 for row in matrix) and all(sum(column) == 1 for column in zip(*matrix))
            mixed = np.array(matrix, dtype=float) @ mixed
    np.testing.assert_allclose(mixed, np.full((size, size), 1 / size), atol=1e-6)


@pytest.mark.parametrize("size", [2, 4, 8, 16])
def test_one_peer_after_another_is_the_exact_mean_after_log_n_exchanges(size: int) -> None:
    mixed = np.eye(size)
    turns = edges_of("one_peer_exponential", size)
    assert 2 ** len(turns) == size and all(len(edges) == size for edges in turns)
    for edges in turns:
        mixed = np.array(weights_of(edges, size, False), dtype=float) @ mixed
    assert (mixed == 1 / size).all()


@given(
    st.integers(2, 6).flatmap(
        lambda size: st.tuples(st.just(size), st.sets(st.tuples(*[st.integers(0, size - 1)] * 2)))
    )
)
def test_edges_of_a_users_own_keep_the_sum_or_are_refused(drawn: tuple[int, set[tuple[int, int]]]) -> None:
    size, edges = drawn
    if any(source == target for source, target in edges):
        with pytest.raises(ValueError, match="joins no two"):
            weights_of(sorted(edges), size, True)
        return
    matrix = weights_of(sorted(edges), size, True)
    assert all(sum(column) == Fraction(1) for column in zip(*matrix))
    if all(sum(row) == 1 for row in matrix):
        assert weights_of(sorted(edges), size, False) == matrix
    else:
        with pytest.raises(ValueError, match="with push_sum such edges average too"):
            weights_of(sorted(edges), size, False)


@pytest.mark.parametrize(
    "settings, ranks, line",
    [
        (["sync.gossip.topology=torus"], 2, "sync.gossip.topology = 'torus': a torus is a grid of at least 2 x 2"),
        (["sync.gossip.edges=[[[0,3]]]"], 2, "sync.gossip.edges = [[(0, 3)]]: [0, 3] joins no two of the 2 ranks"),
        (["sync.gossip.edges=[[[0,1],[0,1]]]"], 2, "an edge is named twice"),
        (["sync.gossip.edges=[[[0,1]]]"], 2, "with push_sum such edges average too"),
        (["sync.kwargs.every=3"], 2, "sync.kwargs must be absent with sync.kind = 'gossip'"),
        (["compression.kind=tests.harness.distributed.test_doors:Nothing"], 2, "compression.kind"),
    ],
)
def test_what_ranks_cannot_follow_is_refused_before_they_start(settings: list[str], ranks: int, line: str) -> None:
    config = load_run_config("ppo-cartpole", ["sync.kind=gossip", *settings])
    with pytest.raises(BadInput) as refused:
        synchronizer_class(config.sync, config.compression, ranks)
    assert line in str(refused.value)
