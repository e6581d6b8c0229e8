"""One group of ranks over one transport: what its members say to each other, and how a transport starts."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any, ClassVar, Literal, TypeVar

import torch

from harness.cluster.place import Place

Operation = Literal["sum", "min", "max"]
F = TypeVar("F", bound=Callable[..., Any])


class Capability(Enum):
    """What not every communicator can do."""

    POINT_TO_POINT = "send, receive, probe"
    GROUPS = "split"
    CONCURRENT = "start_all_reduce goes on while this rank computes and calls other collectives"


def blocking(method: F) -> F:
    """Marks a method of a communicator that another rank may keep waiting. `all_reduce_`, the hot one, sets `waiting`
    by itself."""

    @functools.wraps(method)
    def marked(self: Communicator, *args: Any, **kwargs: Any) -> Any:
        self.waiting = True
        try:
            return method(self, *args, **kwargs)
        finally:
            self.waiting = False

    return marked  # type: ignore[return-value]


class Work(ABC):
    """A call that goes on."""

    @abstractmethod
    def wait(self) -> None:
        """Returns when it is done; raises what went wrong."""

    @abstractmethod
    def done(self) -> bool:
        """Whether `wait` would return, or raise, at once."""


class Done(Work):
    """A call that was over when it returned."""

    def wait(self) -> None:
        pass

    def done(self) -> bool:
        return True


DONE = Done()


class Communicator(ABC):
    """A group of ranks. Every method but `send`, `receive` and `probe` is called by all members in the same order, or
    all of them wait for ever."""

    name: str = "world"
    transport: str
    """What carries its calls: `horovod`, `mpi`, `alone`, or what the user named."""
    rank: int
    """This process's, in the group."""
    size: int
    members: tuple[int, ...]
    """The world's rank of each member."""
    can: frozenset[Capability] = frozenset()
    waiting: bool = False
    """Whether this process is inside a call that another rank may keep waiting. An implementation sets it in each of
    its blocking calls: hang detection goes by it."""
    derived: tuple[Communicator, ...] = ()
    """Those that `split` and `duplicate` made of it."""

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

    def reduce_scatter_(self, out: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        """Rank r's part, of `size` equal ones, of the sum of `tensor` (size * n,), in `out` (n,)."""
        reduced = self.all_reduce_(tensor.clone(), name="reduce_scatter")
        return out.copy_(reduced.view(self.size, -1)[self.rank].view_as(out))

    def all_gather_(self, out: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        """Every rank's `tensor`, in the order of ranks, in `out` (size, *tensor.shape)."""
        out.zero_()
        out[self.rank] = tensor
        return self.all_reduce_(out, name="all_gather")

    def all_to_all_(self, out: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        """Row r of `tensor` (size, *shape) goes to rank r; `out`, of the same shape, has in row r what rank r sent
        here."""
        every = self.all_gather_(tensor.new_empty(self.size, *tensor.shape), tensor)
        return out.copy_(every[:, self.rank])

    def start_all_reduce(self, tensor: torch.Tensor, tag: int) -> Work:
        """Begins to sum `tensor` over the ranks in place; it must be left alone until the work is done. Started in the
        same order on all ranks; `tag` tells apart those that are under way together.

        It goes on beside other work and other collectives where `can` has CONCURRENT; elsewhere it is done at once.
        """
        self.all_reduce_(tensor, name=f"started.{tag}")
        return DONE

    def send(self, tensor: torch.Tensor, to: int, tag: int) -> Work:
        """Begins to send `tensor`, which must be left alone until the work is done, to one rank."""
        raise NotImplementedError(f"{self.transport} does not send from one rank to another")

    def receive(self, out: torch.Tensor, source: int, tag: int) -> Work:
        """Begins to receive what rank `source` sends under `tag`; it is in `out` when the work is done."""
        raise NotImplementedError(f"{self.transport} does not send from one rank to another")

    def probe(self, tag: int) -> int | None:
        """A rank whose message under `tag` can be received; None where there is none."""
        raise NotImplementedError(f"{self.transport} does not send from one rank to another")

    def split(self, color: int, name: str) -> Communicator:
        """The group of the members that gave the same `color`, in the order of ranks."""
        raise NotImplementedError(f"{self.transport} makes no groups of some of its ranks")

    def duplicate(self, name: str) -> Communicator:
        """The same members on another channel, whose calls need no common order with this one's; this one itself where
        another would bring nothing."""
        return self

    def close(self) -> None:
        """Ends what carries them; by all ranks, and nothing is called after it."""

    def piece_of(self, size: int) -> int | None:
        """Bytes that carry a reduce of `size` bytes at a time; None: memory that the ranks share carries it."""
        return size

    def barrier(self) -> None:
        self.all_reduce_(torch.zeros(1), name="barrier")

    def agree(self, values: dict[str, float], op: Operation = "sum") -> dict[str, float]:
        """Each value reduced over the ranks in float64, by one collective; the keys must be the same on all ranks."""
        reduced = self.all_reduce_(torch.tensor(list(values.values()), dtype=torch.float64), op, name="agree")
        return dict(zip(values, reduced.tolist()))

    def is_waiting(self) -> bool:
        """Whether this process waits in this group, or in one that was made of it; asked from another thread."""
        return self.waiting or any(each.is_waiting() for each in self.derived)


class Transport(ABC):
    """What carries the calls of ranks that a launcher has started."""

    name: ClassVar[str]

    @abstractmethod
    def refuses(self, place: Place, device: torch.device) -> str | None:
        """Why it cannot carry ranks such as this one, as a sentence; None where it can."""

    @abstractmethod
    def start(self, place: Place, device: torch.device) -> Communicator:
        """The group of all ranks; collective."""


class Alone(Communicator):
    """One rank: everything is agreed already."""

    transport = "alone"
    rank = 0
    size = 1
    members: tuple[int, ...] = (0,)
    can = frozenset({Capability.POINT_TO_POINT, Capability.GROUPS})

    def __init__(self, name: str = "world", members: tuple[int, ...] = (0,)) -> None:
        self.name, self.members = name, members
        self.messages: dict[int, deque[torch.Tensor]] = {}
        """What this rank has sent to itself, by tag."""

    def all_reduce_(self, tensor: torch.Tensor, op: Operation = "sum", name: str = "value") -> torch.Tensor:
        return tensor

    def all_gather_(self, out: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        out[0].copy_(tensor)
        return out

    def broadcast_(self, tensor: torch.Tensor, root: int = 0) -> torch.Tensor:
        return tensor

    def gather_objects(self, value: Any) -> list[Any]:
        return [value]

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        return value

    def send(self, tensor: torch.Tensor, to: int, tag: int) -> Work:
        self.messages.setdefault(tag, deque()).append(tensor.clone())
        return DONE

    def receive(self, out: torch.Tensor, source: int, tag: int) -> Work:
        if not self.messages.get(tag):
            raise RuntimeError(f"one rank alone waits for a message of its own under tag {tag}, and has sent none")
        out.copy_(self.messages[tag].popleft())
        return DONE

    def probe(self, tag: int) -> int | None:
        return 0 if self.messages.get(tag) else None

    def split(self, color: int, name: str) -> Communicator:
        return Alone(name, self.members)
