"""This rank's place among the ranks, its cores and its device; starts and stops what carries their calls."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

import torch

from harness.cluster.load import LoadMeter
from harness.cluster.machine import available_cores, within_quota
from harness.cluster.openmpi import prepare_environment
from harness.cluster.place import detect_place, refuse_unknown_launcher
from harness.cluster.slots import confine, sharers, slot_of_rank
from harness.distributed.mesh import make_mesh
from harness.distributed.transports import TRANSPORTS, get_transport
from harness.distributed.transports.base import Alone, Capability, Communicator
from harness.distributed.transports.choice import start_quicker
from harness.errors import BadInput


class World:
    """This process as a rank. `start` is called once, by all ranks; `communicator` is then the group of them all, and
    `mesh` the groups by what they share."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        env = os.environ if env is None else env
        self.load = LoadMeter()
        """What other work takes of this host while the run starts."""
        self.place = detect_place(env)
        refuse_unknown_launcher(env, self.place)
        self.slot = slot_of_rank(env, self.place.host, self.place.local_rank)
        if self.slot is not None:
            confine(self.slot)
        self.sharers = max(sharers(env, self.slot), self.place.local_size)
        """How many ranks share this host's CPU quota, where it has one."""
        self.cores = within_quota(len(available_cores()), self.sharers)
        """Cores that are this rank's; known in full once the ranks have started."""
        self.device = self._device()
        self.adopt(Alone())
        self.reason = "one rank"
        """Why the reduces go by the path that they go by."""

    def _device(self) -> torch.device:
        """A GPU of this rank's own; the CPU where there are not enough for all ranks of this host, as NCCL wants it."""
        index, of = self.place.local_rank, self.place.local_size
        if self.slot is not None and self.slot.of > 1:
            index, of = self.slot.index, self.slot.of
        elif self.slot is not None:  # its GPU is the only one that it sees
            index, of = 0, 1
        if not torch.cuda.is_available() or torch.cuda.device_count() < of:
            return torch.device("cpu")
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
        return device

    def start(self, path: str = "auto", needs: frozenset[Capability] = frozenset()) -> Communicator:
        """Starts what carries the reduces: a transport by its name in `TRANSPORTS` or the user's own `module:Class`, or
        with `auto` the quicker one, by measurement where the ranks are on several hosts. Under mpirun it is rank 0's
        `path` that counts. `needs`: what the one that `auto` takes must be able to do."""
        if self.place.size == 1:
            return self.adopt(Alone())
        prepare_environment()
        if self.place.launcher == "mpi":  # MPI is there before Horovod in any case, see HorovodTransport
            from mpi4py import MPI

            path = MPI.COMM_WORLD.bcast(path)
        if path == "auto":
            communicator, self.reason = start_quicker(self.place, self.device, needs)
        else:
            communicator, self.reason = self.start_transport(path), f"sync.path = {path}"
        if communicator.size != self.place.size or communicator.rank != self.place.rank:
            found = f"rank {communicator.rank} of {communicator.size}"
            raise BadInput(
                f"the launcher started {self.place.size} ranks, but this one finds itself {found}: its {path} does not "
                "belong to that launcher; see `python -m harness doctor`"
            )
        self.adopt(communicator)
        self.cores = self.cores_beside_others()
        return communicator

    def start_transport(self, path: str) -> Communicator:
        """The group of all ranks by this transport; BadInput where it refuses them."""
        transport = get_transport(path)
        refusal = transport.refuses(self.place, self.device)
        if refusal is not None:
            others = [name for name in TRANSPORTS if get_transport(name).refuses(self.place, self.device) is None]
            may_be = " or ".join(repr(name) for name in ("auto", *others))
            raise BadInput(f"sync.path = {path!r}: {refusal}; it may be {may_be}")
        communicator = transport.start(self.place, self.device)
        communicator.transport = path
        return communicator

    def start_torch(self, backend: str, hosts: Sequence[str]) -> Communicator:
        """Starts `torch.distributed` in place of a transport, for benches that compare with it; see `start_group`."""
        from harness.distributed.transports.torch import start_group

        return self.adopt(start_group(self.place, self.device, backend, hosts))

    def adopt(self, communicator: Communicator) -> Communicator:
        """Takes the group of all ranks, which has started; collective."""
        self.communicator, self.mesh = communicator, make_mesh(communicator)
        return communicator

    def cores_beside_others(self) -> int:
        """Cores for this rank alone: those it may use, shared with the ranks of this host that may use them too.

        Where the launcher has bound each rank to cores of its own, nobody shares.
        """
        own = available_cores()
        masks = self.communicator.gather_objects((self.place.host, own))
        sharing = sum(1 for host, cores in masks if host == self.place.host and set(cores) & set(own))
        return within_quota(max(1, len(own) // sharing), self.sharers)

    def stop(self) -> None:
        """Leaves the others in good order."""
        self.communicator.close()
        self.adopt(Alone())

    def abort(self, code: int = 1) -> None:
        """Ends this rank at once, and with it the run: the others wait in a collective that this one never joins.

        Under MPI the launcher ends all ranks at once. Under Gloo it sees this rank's exit code and ends the others.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        if self.place.size > 1 and self.place.launcher == "mpi" and "mpi4py.MPI" in sys.modules:
            from harness.distributed.transports.mpi import abort

            abort(code)
        os._exit(code)
