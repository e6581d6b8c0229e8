"""Matrices of low rank in place of gradients: PowerSGD (Vogels et al. 2019, arXiv 1905.13727)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.distributed.arena import Arena
from harness.distributed.compression.feedback import FeedbackCompressor, draws
from harness.distributed.transports.base import Communicator
from harness.errors import BadInput

# Factors lie transposed, P as (rank, rows) and Q as (rank, columns): a product of 5000 x 5000 and 5000 x 4 then takes
# 8 ms, not 30 or 58.

STRIP = 128 * 1024
"""Numbers of a matrix that are worked on at once on a CPU, so that what is added is multiplied from the cache."""


@dataclass(frozen=True)
class Matrix:
    """A parameter's gradient as rows x columns, and where its factors lie."""

    start: int
    rows: int
    columns: int

    @property
    def end(self) -> int:
        return self.start + self.rows * self.columns


class PowerSGD(FeedbackCompressor):
    """One step of a power iteration from the last update's Q (algorithm 1): of each matrix M, P = sum of M Q,
    orthogonalised, and Q = sum of M^T P; the sum of the ranks' M becomes P Q^T, which is exact where that sum has no
    higher rank. Both factors are summed on the wire. Parameters whose factors would be no smaller are summed as they
    are."""

    options = ("rank",)

    def __init__(self, rank: int = 4, error_feedback: bool = True, **common: Any) -> None:
        super().__init__(error_feedback=error_feedback, **common)
        self.rank = rank
        self.matrices: list[Matrix] = []
        self.rest: list[slice] = []
        """What is summed as it is."""

    def attach(self, arena: Arena, group: Communicator) -> None:
        self.lay_out([home.shape for home in arena.homes])
        if not self.matrices:
            raise BadInput(
                f"compression.rank = {self.rank} with compression.kind = 'powersgd' makes no parameter of this network "
                "smaller: it must be less than rows * columns / (rows + columns) of its largest matrix"
            )

    def lay_out(self, shapes: Sequence[torch.Size]) -> None:
        """`shapes`: of the parameters whose gradients the vector holds."""
        self.matrices, self.rest, start = [], [], 0
        for shape in shapes:
            numbers = shape.numel()
            matrix = Matrix(start, shape[0], numbers // shape[0]) if len(shape) > 1 else None
            start += numbers
            if matrix is not None and self.rank * (matrix.rows + matrix.columns) < numbers:
                self.matrices.append(matrix)
            elif self.rest and self.rest[-1].stop == start - numbers:
                self.rest[-1] = slice(self.rest[-1].start, start)
            else:
                self.rest.append(slice(start - numbers, start))

    def prepare(self, vector: torch.Tensor, group: Communicator) -> None:
        device, rank = vector.device, self.rank
        of_p = [rank * matrix.rows for matrix in self.matrices]
        of_q = [rank * matrix.columns for matrix in self.matrices]
        of_rest = [part.stop - part.start for part in self.rest]
        self.first = torch.empty(sum(of_p) + sum(of_rest), device=device)
        """All P, then the rest."""
        self.second = torch.empty(sum(of_q), device=device)
        """All Q."""
        self._draw_q()
        self.keep("q", self.second)
        split = self.first.split([*of_p, *of_rest])
        self.p = [part.view(rank, -1) for part in split[: len(of_p)]]
        self.rests = split[len(of_p) :]
        self.q = [part.view(rank, -1) for part in self.second.split(of_q)]
        self.residual = None
        if self.error_feedback:
            self.residual = self.keep("residual", torch.zeros_like(vector))
            self.own = torch.empty_like(self.second)
            self.own_q = [part.view(rank, -1) for part in self.own.split(of_q)]
        strip = STRIP if device.type == "cpu" else vector.numel()
        self.strips = [
            [slice(at, at + height) for at in range(0, matrix.rows, height)]
            for matrix in self.matrices
            for height in [max(1, min(matrix.rows, strip // matrix.columns))]
        ]

    def _draw_q(self) -> None:
        """Where the power iteration begins: normal, the same on all ranks."""
        drawn = draws(self.shared_key, self.updates).standard_normal(self.second.numel()).astype("float32")
        self.second.copy_(torch.from_numpy(drawn))

    def sum_(self, vector: torch.Tensor, group: Communicator) -> None:
        kept = vector if self.residual is None else self.residual
        for matrix, strips, p, q in zip(self.matrices, self.strips, self.p, self.q):
            gradient, m = view(vector, matrix), view(kept, matrix)
            for rows in strips:
                if self.residual is not None:
                    m[rows].add_(gradient[rows])
                torch.mm(q, m[rows].T, out=p[:, rows])
        for part, rest in zip(self.rest, self.rests):
            rest.copy_(vector[part])
        group.all_reduce_(self.first, "sum", "powersgd.p")
        for matrix, p, q in zip(self.matrices, self.p, self.q):
            p.copy_(torch.linalg.qr(p.T).Q.T)  # by reflections: orthogonal also where columns are zero
            torch.mm(p, view(kept, matrix), out=q)
        if self.residual is not None:
            self.own.copy_(self.second)
        group.all_reduce_(self.second, "sum", "powersgd.q")
        for number, (matrix, strips, p, q) in enumerate(zip(self.matrices, self.strips, self.p, self.q)):
            out, m = view(vector, matrix), view(kept, matrix)
            for rows in strips:
                if self.residual is not None:
                    m[rows].addmm_(p[:, rows].T, self.own_q[number], alpha=-1)
                torch.mm(p[:, rows].T, q, out=out[rows])
        for part, rest in zip(self.rest, self.rests):
            vector[part].copy_(rest)
        if not math.isfinite(float(self.second.sum())):
            self._draw_q()  # an update that is skipped leaves nothing behind
        self.sent = self.first.nbytes + self.second.nbytes


def view(vector: torch.Tensor, matrix: Matrix) -> torch.Tensor:
    return vector[matrix.start : matrix.end].view(matrix.rows, matrix.columns)
