"""Each way to agree beside its equations in numpy: what N ranks come to from the same samples."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import slow
from tests.multirank.agreeing import INPUTS, batch
from tests.multirank.launch import run_ranks

SCRIPT = Path(__file__).with_name("agreeing.py")
UPDATES, RATE = 50, 0.05

LOCAL = {
    "every update": {"every": 1},
    "every 7": {"every": 7},
    "growing": {"every": 2, "growth": 1.5, "most": 9, "warmup_updates": 6},
    "diloco": {"every": 5, "outer_lr": 0.7, "outer_momentum": 0.9},
    "fragments": {"every": 6, "fragments": 2},
    "delayed": {"every": 6, "fragments": 2, "delay": 2, "outer_lr": 0.7, "outer_momentum": 0.9},
}
GOSSIP = {
    "complete": {"topology": "complete"},
    "ring": {"topology": "ring"},
    "exponential": {"topology": "exponential", "every": 2},
    "one peer": {},
    "overlap": {"overlap": True},
    "one way": {"edges": [[[0, 1]], [[1, 0]]], "push_sum": True},
    "one way, overlap": {"edges": [[[0, 1]], [[1, 0]]], "push_sum": True, "overlap": True},
}
OF_FOUR = {
    "torus": {"topology": "torus"},
    "ring": {"topology": "ring"},
    "one peer": {},
    "one way": {"edges": [[[0, 1], [1, 2], [2, 3], [3, 0], [0, 2]]], "push_sum": True},
}
CASES = [{"sync": {"kind": "allreduce"}}]
CASES += [{"sync": {"kind": "local_sgd", "local_sgd": settings}} for settings in LOCAL.values()]
CASES += [{"sync": {"kind": "gossip", "gossip": settings}} for settings in GOSSIP.values()]
CASES += [
    {"optimizer": "adam", "sync": {"kind": "local_sgd", "local_sgd": {"every": 3, "moments": moments}}}
    for moments in ("keep", "average", "reset")
]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """By case, what each of two ranks gave."""
    folder = tmp_path_factory.mktemp("two")
    given = run_ranks(2, "mpirun", SCRIPT, folder, json.dumps([CASES, UPDATES]), sync_path="mpi").given
    return [list(ranks) for ranks in zip(*given)]


def gradient(weights: np.ndarray, rank: int, update: int) -> np.ndarray:
    """Of the mean squared error on a rank's samples; float64 (5,)."""
    x, y = (values.astype(np.float64) for values in batch(rank, update))
    return 2 / len(x) * x.T @ (x @ weights - y)


def start(size: int) -> np.ndarray:
    return np.full((size, INPUTS), 0.5)


def summed_gradients(size: int) -> np.ndarray:
    weights = start(1)[0]
    for update in range(UPDATES):
        weights = weights - RATE * np.mean([gradient(weights, rank, update) for rank in range(size)], axis=0)
    return weights


def of(two: list[list[dict[str, Any]]], kind: str, name: str) -> list[dict[str, Any]]:
    settings = {"local_sgd": LOCAL, "gossip": GOSSIP}[kind][name]
    return two[CASES.index({"sync": {"kind": kind, kind: settings}})]


def close(given: list[dict[str, Any]], own: np.ndarray, settled: np.ndarray) -> None:
    for rank, found in enumerate(given):
        np.testing.assert_allclose(found["own"], own[rank], rtol=0, atol=2e-6)
        np.testing.assert_allclose(found["settled"], settled, rtol=0, atol=2e-6)
    assert given[0]["tail"] == given[1]["tail"], "ranks decide by the statistics of all"


@pytest.mark.parametrize("kind, name", [("local_sgd", "every update"), ("gossip", "complete"), ("gossip", "one peer")])
def test_what_promises_it_is_the_step_on_the_sum_of_all_gradients(
    kind: str, name: str, two: list[list[dict[str, Any]]]
) -> None:
    """With plain SGD. One-peer exponential graphs of 2^n ranks average exactly in n exchanges, here in one."""
    expected = summed_gradients(2)
    close(two[0], np.stack([expected] * 2), expected)
    close(of(two, kind, name), np.stack([expected] * 2), expected)


def local_sgd(size: int, every: Callable[[int], bool], rate: float = 1.0, momentum: float = 0.0) -> tuple[Any, Any]:
    """Local SGD and DiLoCo: the ranks' weights after all updates, and once settled. `every(n)`: whether an average
    follows update n, from 1."""
    weights, common, velocity = start(size), start(1)[0], np.zeros(INPUTS)

    def average() -> None:
        nonlocal common, velocity
        change = common - weights.mean(axis=0)
        velocity = momentum * velocity + change
        common = common - rate * (change + momentum * velocity)
        weights[:] = common

    for update in range(UPDATES):
        weights -= RATE * np.stack([gradient(weights[rank], rank, update) for rank in range(size)])
        if every(update + 1):
            average()
    return weights, weights.mean(axis=0)


def test_local_steps_between_averages(two: list[list[dict[str, Any]]]) -> None:
    close(of(two, "local_sgd", "every 7"), *local_sgd(2, lambda update: update % 7 == 0))


def test_averages_grow_apart_after_a_warm_up(two: list[list[dict[str, Any]]]) -> None:
    averages, interval = set(range(1, 7)), 2.0
    after = 6
    while after < UPDATES:
        after += round(interval)
        averages.add(after)
        interval = min(interval * 1.5, 9.0)
    close(of(two, "local_sgd", "growing"), *local_sgd(2, averages.__contains__))


def test_diloco_takes_an_outer_step_by_nesterovs_method(two: list[list[dict[str, Any]]]) -> None:
    close(of(two, "local_sgd", "diloco"), *local_sgd(2, lambda update: update % 5 == 0, 0.7, 0.9))


@pytest.mark.parametrize("name, delay, rate, momentum", [("fragments", 0, 1.0, 0.0), ("delayed", 2, 0.7, 0.9)])
def test_fragments_take_turns_and_may_be_on_their_way_while_ranks_step(
    name: str, delay: int, rate: float, momentum: float, two: list[list[dict[str, Any]]]
) -> None:
    """Streaming DiLoCo: what was averaged takes effect `delay` updates later, and what a rank stepped since is kept."""
    weights, common, velocity = start(2), start(1)[0], np.zeros(INPUTS)
    parts, under_way = np.array_split(np.arange(INPUTS), 2), {}

    def apply(part: int) -> None:
        rows, (change, before) = parts[part], under_way.pop(part)
        velocity[rows] = momentum * velocity[rows] + change
        common[rows] -= rate * (change + momentum * velocity[rows])
        weights[:, rows] += common[rows] - before

    def begin(part: int) -> None:
        rows = parts[part]
        under_way[part] = common[rows] - weights[:, rows].mean(axis=0), weights[:, rows].copy()

    for update in range(UPDATES):
        weights -= RATE * np.stack([gradient(weights[rank], rank, update) for rank in range(2)])
        made = update + 1
        for part in (0, 1):
            if made == 3 * (part + 1) or (made - 3 * (part + 1)) % 6 == 0 and made > 3:
                begin(part)
                if not delay:
                    apply(part)
            elif delay and part in under_way and (made - 3 * (part + 1)) % 6 == delay:
                apply(part)
    own = weights.copy()
    for part in sorted(under_way):
        apply(part)
    close(of(two, "local_sgd", name), own, weights.mean(axis=0))


def mixing(edges: list[list[int]], size: int) -> np.ndarray:
    """W of those edges: a rank gives equal parts to itself and to each that it sends to."""
    matrix = np.eye(size)
    for source, target in edges:
        matrix[target, source] = 1
    return matrix / matrix.sum(axis=0)


def gossip(matrices: list[np.ndarray], every: int = 1, overlap: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Decentralised SGD by push-sum, which is the plain one where W is doubly stochastic."""
    size = len(matrices[0])
    carried, mass, exchanged = start(size), np.ones(size), 0
    under_way = None
    for update in range(UPDATES):
        own = carried / mass[:, None]
        carried = carried - RATE * np.stack([gradient(own[rank], rank, update) for rank in range(size)])
        if under_way is not None:
            averaged, before, masses = under_way
            carried, mass, under_way = averaged + carried - before, masses, None
        if (update + 1) % every:
            continue
        matrix = matrices[exchanged % len(matrices)]
        exchanged += 1
        if overlap:
            under_way = matrix @ carried, carried, matrix @ mass
        else:
            carried, mass = matrix @ carried, matrix @ mass
    own = carried / mass[:, None]
    if under_way is not None:
        carried, mass = under_way[0] + carried - under_way[1], under_way[2]
    return own, carried.sum(axis=0) / mass.sum()


def test_neighbours_average_on_each_graph_of_two(two: list[list[dict[str, Any]]]) -> None:
    both = mixing([[0, 1], [1, 0]], 2)
    close(of(two, "gossip", "ring"), *gossip([both]))
    close(of(two, "gossip", "exponential"), *gossip([both], every=2))
    close(of(two, "gossip", "overlap"), *gossip([both], overlap=True))
    one_way = [mixing([[0, 1]], 2), mixing([[1, 0]], 2)]
    close(of(two, "gossip", "one way"), *gossip(one_way))
    close(of(two, "gossip", "one way, overlap"), *gossip(one_way, overlap=True))


@pytest.mark.parametrize("size", [slow(4)])
def test_neighbours_average_on_each_graph_of_four(size: int, tmp_path: Path) -> None:
    cases = [{"sync": {"kind": "gossip", "gossip": settings}} for settings in OF_FOUR.values()]
    given = run_ranks(size, "mpirun", SCRIPT, tmp_path, json.dumps([cases, UPDATES]), sync_path="mpi").given
    torus = mixing([[0, 1], [1, 0], [2, 3], [3, 2], [0, 2], [2, 0], [1, 3], [3, 1]], 4)
    ring = mixing([[a, b] for a in range(4) for b in range(4) if (a - b) % 4 in (1, 3)], 4)
    peers = [mixing([[a, (a + 2**n) % 4] for a in range(4)], 4) for n in range(int(math.log2(4)))]
    one_way = mixing([[0, 1], [1, 2], [2, 3], [3, 0], [0, 2]], 4)
    for ranks, matrices in zip(zip(*given), ([torus], [ring], peers, [one_way])):
        close(list(ranks), *gossip(matrices))


def test_moments_are_kept_averaged_or_set_to_zero(two: list[list[dict[str, Any]]]) -> None:
    """Adam (Kingma and Ba 2015) on each rank, an average after every third update."""
    for case, given in zip(CASES, two):
        moments = case["sync"].get("local_sgd", {}).get("moments")
        if case.get("optimizer") != "adam":
            continue
        weights, mean, square = start(2), np.zeros((2, INPUTS)), np.zeros((2, INPUTS))
        for update in range(UPDATES):
            found = np.stack([gradient(weights[rank], rank, update) for rank in range(2)])
            mean, square = 0.9 * mean + 0.1 * found, 0.999 * square + 0.001 * found**2
            corrected = mean / (1 - 0.9 ** (update + 1)), square / (1 - 0.999 ** (update + 1))
            weights -= RATE * corrected[0] / (np.sqrt(corrected[1]) + 1e-5)
            if (update + 1) % 3 == 0:
                weights[:] = weights.mean(axis=0)
                if moments == "average":
                    mean[:], square[:] = mean.mean(axis=0), square.mean(axis=0)
                elif moments == "reset":
                    mean[:], square[:] = 0, 0
        for rank in range(2):
            np.testing.assert_allclose(given[rank]["own"], weights[rank], rtol=0, atol=2e-4)
