"""What ranks say to each other: all-reduce, broadcast, gather; by Horovod, by MPI, or alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch

Operation = Literal["sum", "min", "max"]


class Communicator(ABC):
    """Every method is called by all ranks in the same order, or all of them wait for ever."""

    path: str
    """`horovod`, `mpi` or `alone`: what carries the reduces."""
    rank: int
    size: int

    @abstractmethod
    def all_reduce_(self, tensor: torch.Tensor, op: Operation = "sum", name: str = "value") -> torch.Tensor:
        """Reduces `tensor` over the ranks in place; the result is bit-equal on all of them.

        `name` says what it is for. Equal names, shapes and dtypes in turn are what Horovod's response cache is for; two
        reduces in flight at once must have different ones.
        """

    @abstractmethod
    def broadcast_(self, tensor: torch.Tensor, root: int = 0) -> torch.Tensor:
        """Rank `root`'s `tensor` on every rank, in place."""

    @abstractmethod
    def gather_objects(self, value: Any) -> list[Any]:
        """Every rank's `value`, in the order of ranks, on every rank."""

    @abstractmethod
    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        """Rank `root`'s `value` on every rank."""

    def close(self) -> None:
        """Ends what carries them; by all ranks, and nothing is called after it."""

    def barrier(self) -> None:
        self.all_reduce_(torch.zeros(1), name="barrier")

    def agree(self, values: dict[str, float], op: Operation = "sum") -> dict[str, float]:
        """Each value reduced over the ranks in float64, by one collective; the keys must be the same on all ranks."""
        reduced = self.all_reduce_(torch.tensor(list(values.values()), dtype=torch.float64), op, name="agree")
        return dict(zip(values, reduced.tolist()))


class Alone(Communicator):
    """One rank: everything is agreed already."""

    path = "alone"
    rank = 0
    size = 1

    def all_reduce_(self, tensor: torch.Tensor, op: Operation = "sum", name: str = "value") -> torch.Tensor:
        return tensor

    def broadcast_(self, tensor: torch.Tensor, root: int = 0) -> torch.Tensor:
        return tensor

    def gather_objects(self, value: Any) -> list[Any]:
        return [value]

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        return value


class Reducer(ABC):
    """Sums over the ranks that go on beside other work; started in the same order on all ranks."""

    @abstractmethod
    def start(self, part: torch.Tensor, number: int) -> None:
        """Begins to sum `part` in place; `number` tells apart those that are under way together."""

    @abstractmethod
    def wait(self) -> None:
        """Returns when all that was started is done; raises what went wrong."""

    def close(self) -> None:
        """Nothing more will be started, on any rank."""
