"""Hosts and their slots, and which trial has which. A slot is a share of a host's cores and, if it has GPUs, one."""

from __future__ import annotations

from collections.abc import Sequence

from harness.cluster.hosts import Host, same_host
from harness.errors import BadInput
from harness.launching.remote import is_here
from search.launchers.lease import Lease
from search.launchers.pace import Pace


class Slots:
    """All slots, free and leased; every slot is in one lease at most."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self.hosts = tuple(hosts)
        self._free: dict[str, list[int]] = {host.name: list(range(host.slots)) for host in hosts}
        self.pace = Pace()
        self.left_out: set[str] = set()
        """Hosts that went while the search ran: nothing more is started there."""

    @property
    def total(self) -> int:
        return sum(host.slots for host in self.hosts if host.name not in self.left_out)

    @property
    def free(self) -> int:
        return sum(map(len, self._free.values()))

    def check(self, ranks: int) -> None:
        if ranks > self.total:
            where = ", ".join(f"{host.name} has {host.slots}" for host in self.hosts)
            remedy = "a hostfile names more (`--hostfile`, a line may be `localhost slots=4`)"
            raise BadInput(f"trial.ranks must be <= {self.total}, the slots there are ({where}), got {ranks}; {remedy}")

    def lease(self, ranks: int) -> Lease | None:
        """Slots for so many ranks, on one host where that is possible; None where too few are free."""
        if self.free < ranks:
            return None
        enough = [name for name, free in self._free.items() if len(free) >= ranks]
        if enough:  # the fullest host that still has room, so that whole hosts stay free for others
            names = [min(enough, key=lambda name: len(self._free[name]))]
        else:
            names = sorted(self._free, key=lambda name: -len(self._free[name]))
        slots: dict[str, tuple[int, ...]] = {}
        for name in names:
            taken = self._free[name][: ranks - sum(map(len, slots.values()))]
            if taken:
                slots[name] = tuple(taken)
        lease = Lease(slots, {name: self._size(name) for name in slots})
        self.claim(lease)
        return lease

    def claim(self, lease: Lease) -> None:
        """Marks the slots of `lease` as its own, for a job that a restarted driver finds running."""
        self.pace.begin(lease)
        for name, ids in lease.slots.items():
            if name in self._free:
                self._free[name] = [slot for slot in self._free[name] if slot not in ids]

    def give_back(self, lease: Lease) -> None:
        self.pace.end(lease)
        for name, ids in lease.slots.items():
            if name in self._free:
                known = (slot for slot in ids if slot < self._size(name))
                self._free[name] = sorted({*self._free[name], *known})

    def leave_out(self, name: str) -> str | None:
        """Gives no slots of a host any more; its name here. None for this host and for one that is none of these."""
        known = next((host.name for host in self.hosts if same_host(host.name, name)), None)
        if known is None or is_here(known):
            return None
        self.left_out.add(known)
        self._free.pop(known, None)
        return known

    def _size(self, name: str) -> int:
        return next(host.slots for host in self.hosts if host.name == name)
