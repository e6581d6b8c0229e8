"""Who averages with whom: graphs of ranks, and the weights of their edges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

Edge = tuple[int, int]
"""From the rank that sends to the one that receives."""


def edges_of(topology: str, size: int) -> list[list[Edge]]:
    """The edges of each iteration, which take turns. ValueError where so many ranks do not make that graph."""
    if topology == "complete":
        return [[(a, b) for a in range(size) for b in range(size) if a != b]]
    if topology == "ring":
        return [shifts(size, {1, size - 1})]
    if topology == "torus":
        return [torus(size)]
    powers = [2**exponent for exponent in range(math.ceil(math.log2(size)))]
    if topology == "exponential":
        return [shifts(size, set(powers))]
    return [shifts(size, {power}) for power in powers]


def shifts(size: int, steps: set[int]) -> list[Edge]:
    """Each rank sends to those so many ranks further."""
    return [(rank, (rank + step) % size) for step in sorted(steps) for rank in range(size) if step % size]


def torus(size: int) -> list[Edge]:
    """Neighbours in a grid, as square as can be, whose sides are joined."""
    rows = max((n for n in range(2, math.isqrt(size) + 1) if size % n == 0), default=0)
    if not rows:
        raise ValueError(f"a torus is a grid of at least 2 x 2, which {size} ranks do not fill")
    columns = size // rows
    found = set()
    for rank in range(size):
        row, column = divmod(rank, columns)
        for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            found.add((rank, (row + down) % rows * columns + (column + right) % columns))
    return sorted(found)


def weights_of(edges: Sequence[Edge], size: int, push_sum: bool) -> list[list[Fraction]]:
    """The matrix W of an iteration: rank b's new weights are the sum over a of W[b][a] times rank a's. Each rank gives
    equal parts to those that it sends to and to itself: W's columns sum to 1, which keeps the sum over all ranks.

    ValueError where an edge is none, or where the rows do not sum to 1 too and no push-sum makes up for it (Nedic and
    Olshevsky 2014).
    """
    if len(set(edges)) < len(edges):
        raise ValueError("an edge is named twice")
    for edge in edges:
        if edge[0] == edge[1] or not all(0 <= rank < size for rank in edge):
            raise ValueError(f"{list(edge)} joins no two of the {size} ranks")
    degree = [1 + sum(source == rank for source, _ in edges) for rank in range(size)]
    matrix = [[Fraction(0)] * size for _ in range(size)]
    for rank in range(size):
        matrix[rank][rank] = Fraction(1, degree[rank])
    for source, target in edges:
        matrix[target][source] = Fraction(1, degree[source])
    if not push_sum and (uneven := [rank for rank in range(size) if sum(matrix[rank]) != 1]):
        rank, share = uneven[0], sum(matrix[uneven[0]])
        raise ValueError(f"what rank {rank} hears comes to {share} of a whole: with push_sum such edges average too")
    return matrix
