"""Ranks under Open MPI's mpirun (4.x): over ssh between hosts, by Slurm's own means inside an allocation."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence

from harness.cluster.hosts import Host
from harness.errors import BadInput
from harness.launching import remote
from harness.launching.base import JobSpec
from harness.launching.environment import forwarded, launch_environment
from harness.launching.process_job import ProcessLauncher, hosts_argument


def find_program(name: str, launcher: str) -> str:
    """The program that a job would start, this environment's first. BadInput where there is none."""
    path = shutil.which(name, path=launch_environment(os.environ)["PATH"])
    if path is None:
        raise BadInput(f"launcher {launcher}: there is no {name} on the PATH; `make install` brings it")
    return path


class Mpirun(ProcessLauncher):
    """`mpirun -np N -H host:slots … command`."""

    name = "mpirun"
    carries_mpi = True

    def check(self, hosts: Sequence[Host] = ()) -> None:
        find_program("mpirun", self.name)

    def command_line(self, spec: JobSpec, env: Mapping[str, str]) -> list[str]:
        # two jobs at once would both bind to core 0: a rank pins itself to the cores of its slot
        placing = ["--bind-to", "none", "--map-by", "slot", "-H", hosts_argument(spec)]
        exported: list[str] = []
        if remote.others([host.name for host in spec.hosts]):  # ranks here have mpirun's environment as it is
            for name in forwarded(env, spec.env):
                exported += ["-x", name]
        # by its whole path: Open MPI then looks for its part on other hosts in the same folder
        program = find_program("mpirun", self.name)
        return [program, "-np", str(spec.ranks), "--tag-output", *placing, *exported, *spec.command]
