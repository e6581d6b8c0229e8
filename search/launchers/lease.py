"""Slots of one trial."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

from harness.cluster.hosts import Host


@dataclass(frozen=True)
class Lease:
    """Slots of one trial: host -> the ids of its slots, 0 … host.slots - 1."""

    slots: Mapping[str, tuple[int, ...]]
    of: Mapping[str, int]
    """Host -> how many slots it has in all: an id is a share of its cores only beside that number."""

    @property
    def size(self) -> int:
        return sum(map(len, self.slots.values()))

    @property
    def hosts(self) -> tuple[Host, ...]:
        """The hosts as a launcher wants them, each with the slots that this trial may use."""
        return tuple(Host(name, len(ids)) for name, ids in self.slots.items())

    @property
    def host_names(self) -> list[str]:
        return [socket.gethostname() if name == "localhost" else name for name in self.slots]

    @property
    def environment(self) -> str:
        """`HARNESS_SLOTS`: `hostA:0,1/4;hostB:2,3/4`, ids and the number of that host's slots."""
        return ";".join(f"{name}:{','.join(map(str, ids))}/{self.of[name]}" for name, ids in self.slots.items())

    def to_json(self) -> dict[str, object]:
        return {"slots": {name: list(ids) for name, ids in self.slots.items()}, "of": dict(self.of)}

    @staticmethod
    def from_json(value: Mapping[str, Mapping]) -> Lease:
        return Lease({name: tuple(ids) for name, ids in value["slots"].items()}, dict(value["of"]))
