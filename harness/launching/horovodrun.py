"""Ranks under horovodrun: on MPI it becomes `sh -c mpirun …`, on Gloo it starts them itself (elsewhere by ssh)."""

from __future__ import annotations

import importlib.util
import mmap
import shlex
from collections.abc import Mapping
from pathlib import Path

from harness.errors import BadInput
from harness.launching import reach
from harness.launching.base import Job, Launcher, hosts_argument
from harness.launching.mpirun import find_program

# Horovod's classes of the two controllers, as the names of their types stand in its library
MPI, GLOO = b"13MPIController", b"14GlooController"


def horovod_has(controller: bytes) -> bool | None:
    """Whether the installed Horovod was built with a controller, read from its library; None where Horovod is missing.

    Horovod's own check loads torch in processes of its own, for seconds.
    """
    package = importlib.util.find_spec("horovod")
    if package is None or package.origin is None:
        return None
    for library in (Path(package.origin).parent / "torch").glob("mpi_lib*.so"):
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(controller) >= 0
    return None


class Horovodrun(Launcher):
    """`horovodrun -np N -H host:slots … --mpi|--gloo command`. It forwards the whole environment itself."""

    def __init__(self, name: str, controller: bytes) -> None:
        self.name = name
        self._controller = controller

    def check(self) -> None:
        found = horovod_has(self._controller)
        if found is None:
            raise BadInput(f"launcher {self.name}: Horovod is not installed for PyTorch; `make install` builds it")
        if not found:
            kind = "MPI" if self._controller is MPI else "Gloo"
            raise BadInput(
                f"launcher {self.name}: Horovod was built without {kind}; `make install` builds it with both"
            )
        find_program("horovodrun", self.name)
        if self._controller is MPI:
            find_program("mpirun", self.name)

    def command_line(self, job: Job, env: Mapping[str, str]) -> list[str]:
        # its cache of host checks outlives the hosts' state by up to an hour; binding to none and tags are its defaults
        program = find_program("horovodrun", self.name)
        command = [program, "-np", str(job.ranks), "-H", hosts_argument(job), "--disable-cache"]
        if self._controller is not MPI:
            return [*command, "--gloo", *job.command]
        if reach.others([host.name for host in job.hosts]):
            # it calls mpirun by name alone, which then takes whatever Open MPI is on the other host's PATH, if any
            prefix = Path(find_program("mpirun", self.name)).parent.parent
            command.append(f"--mpi-args=--prefix {shlex.quote(str(prefix))}")
        return [*command, "--mpi", *job.command]
