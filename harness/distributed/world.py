"""This rank's place among the ranks, its cores and its device; starts and stops Horovod and MPI."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import torch

from harness.cluster.machine import available_cores, within_quota
from harness.cluster.openmpi import prepare_environment
from harness.cluster.place import detect_place, refuse_unknown_launcher
from harness.cluster.slots import confine, sharers, slot_of_rank
from harness.distributed.transports.base import Alone, Communicator
from harness.distributed.transports.choice import PROBE_BYTES, seconds_per_reduce
from harness.distributed.transports.horovod import HorovodCommunicator
from harness.distributed.transports.mpi import MpiCommunicator
from harness.errors import BadInput


class World:
    """This process as a rank. `start` is called once, by all ranks; `communicator` is what they then agree by."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        env = os.environ if env is None else env
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
        self.communicator: Communicator = Alone()
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

    def start(self, path: str = "auto") -> Communicator:
        """Starts what carries the reduces: `horovod`, `mpi`, or with `auto` the quicker of the two, by measurement.
        Under mpirun it is rank 0's `path` that counts."""
        if self.place.size == 1:
            self.communicator = Alone()
            return self.communicator
        prepare_environment()
        if self.place.launcher == "mpi":  # MPI is there before Horovod in any case, see _start_horovod
            from mpi4py import MPI

            path = MPI.COMM_WORLD.bcast(path)
        self.reason = f"sync.path = {path}"
        if path == "auto":
            self.communicator = self._start_quicker()
        else:
            self.communicator = self._start_mpi() if path == "mpi" else self._start_horovod()
        if self.communicator.size != self.place.size or self.communicator.rank != self.place.rank:
            found = f"rank {self.communicator.rank} of {self.communicator.size}"
            raise BadInput(
                f"the launcher started {self.place.size} ranks, but this one finds itself {found}: its {path} does not "
                "belong to that launcher; see `python -m harness doctor`"
            )
        self.cores = self.cores_beside_others()
        return self.communicator

    def _start_quicker(self) -> Communicator:
        """Horovod where only it can be had; otherwise both are timed, one after the other, as they would carry the run.

        Beside MPI's steps Horovod must not cycle (its thread polls MPI and costs most of the throughput): it is shut
        down before MPI is timed, and started again in case that it was quicker.
        """
        horovod = self._start_horovod()
        if self.place.launcher != "mpi":
            self.reason = "MPI carries reduces only between ranks that mpirun started"
            return horovod
        if horovod.broadcast_object(self.device.type) != "cpu":
            self.reason = "MPI reduces CPU tensors only"
            return horovod
        seconds = {"horovod": seconds_per_reduce(horovod)}
        horovod.close()
        mpi = self._start_mpi()
        seconds["mpi"] = seconds_per_reduce(mpi)
        seconds = mpi.broadcast_object(seconds)
        figures = ", ".join(
            f"{name} {seconds[name] * 1e6:,.0f} us" for name in sorted(seconds, key=seconds.__getitem__)
        )
        self.reason = f"{PROBE_BYTES // 1024} KB: {figures}"
        if seconds["mpi"] <= seconds["horovod"]:
            return mpi
        mpi.close()
        return self._start_horovod()

    def cores_beside_others(self) -> int:
        """Cores for this rank alone: those it may use, shared with the ranks of this host that may use them too.

        Where the launcher has bound each rank to cores of its own, nobody shares.
        """
        own = available_cores()
        masks = self.communicator.gather_objects((self.place.host, own))
        sharing = sum(1 for host, cores in masks if host == self.place.host and set(cores) & set(own))
        return within_quota(max(1, len(own) // sharing), self.sharers)

    def _start_mpi(self) -> MpiCommunicator:
        if self.place.launcher != "mpi":
            raise BadInput(
                f"sync.path = 'mpi' needs ranks started by mpirun or horovodrun --mpi; under {self.place.launcher} it "
                "may be 'auto' or 'horovod'"
            )
        if self.device.type != "cpu":
            raise BadInput("sync.path = 'mpi' reduces CPU tensors; with GPUs it may be 'auto' or 'horovod'")
        from mpi4py import MPI

        self._end_all_by_an_exception()
        return MpiCommunicator(MPI.COMM_WORLD)

    def _end_all_by_an_exception(self) -> None:
        """A rank that raises would wait for the others at MPI's end, and they for it in a collective."""
        show = sys.excepthook

        def show_and_abort(*error: Any) -> None:
            show(*error)
            self.abort()

        sys.excepthook = show_and_abort

    def _start_horovod(self) -> HorovodCommunicator:
        if self.place.launcher == "mpi":
            # imported first, mpi4py owns MPI's end: Horovod can then be shut down without finalising it
            from mpi4py import MPI  # noqa: F401
        elif self.place.launcher == "slurm":
            from harness.distributed.transports.srun_rendezvous import join_rendezvous

            self.rendezvous: Any = join_rendezvous(os.environ)
        try:
            import horovod.torch as hvd
        except ImportError as error:
            ranks = f"{self.place.size} ranks"
            raise BadInput(f"{ranks} need Horovod, which cannot be imported ({error}): make install") from None
        hvd.init()
        return HorovodCommunicator()

    def stop(self) -> None:
        """Leaves the others in good order."""
        self.communicator.close()
        self.communicator = Alone()

    def abort(self, code: int = 1) -> None:
        """Ends this rank at once, and with it the run: the others wait in a collective that this one never joins.

        Under MPI the launcher ends all ranks at once. Under Gloo it sees this rank's exit code and ends the others.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        if self.place.size > 1 and self.place.launcher == "mpi" and "mpi4py.MPI" in sys.modules:
            from mpi4py import MPI

            if MPI.Is_initialized() and not MPI.Is_finalized():
                MPI.COMM_WORLD.Abort(code)
        os._exit(code)
