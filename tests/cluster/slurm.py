"""A real Slurm of two nodes, n1 and n2, on this one machine: munged, slurmctld, two slurmd in a folder of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil

from tests.cluster.daemons import Daemon, free_ports
from tests.conftest import wait_for

NODES = ("n1", "n2")
DAEMONS = ("munged", "slurmctld", "slurmd")

# config_overrides lets a node have more cores than the machine; proctrack/pgid and task/none need no cgroups.
CONF = """\
ClusterName=tests
SlurmctldHost=localhost
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
ReturnToService=2
KillWait=5
MailProg=/bin/true
NodeName=n1 NodeHostname=localhost Port={n1_port} CPUs=4 RealMemory=1000 State=UNKNOWN
NodeName=n2 NodeHostname=localhost Port={n2_port} CPUs=4 RealMemory=1000 State=UNKNOWN
PartitionName=tests Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
"""


def find_daemon(name: str) -> str | None:
    """Debian keeps daemons in /usr/sbin, which is not on every PATH."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


class SlurmCluster:
    """Starts the cluster in `folder` and waits until it is idle. A unix socket's path is short: 108 characters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.touch(0o400)
        key.write_bytes(os.urandom(128))
        controller_port, n1_port, n2_port = free_ports(3)
        self.conf = folder / "slurm.conf"
        self.conf.write_text(
            CONF.format(folder=folder, controller_port=controller_port, n1_port=n1_port, n2_port=n2_port)
        )
        # Without what an outer job or MPI launcher may have left in the environment.
        outer = ("SLURM", "SBATCH_", "SRUN_", "OMPI_", "PMIX_", "PMI_", "PRTE_", "HARNESS_", "HOROVOD_")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
        self.env["SLURM_CONF"] = str(self.conf)
        self.daemons: list[Daemon] = []
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        socket = self.folder / "munge.socket"
        places = [f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        # --force: the folder belongs to root alone, and so does every client.
        self._daemon("munged", "--foreground", "--force", f"--socket={socket}", *places)
        wait_for(socket.exists, 10, "munge's socket")
        self._daemon("slurmctld", "-D", "-i")
        for node in NODES:
            self._daemon("slurmd", "-D", "-N", node)
        wait_for(lambda: self._idle_nodes() == set(NODES), 30, "two idle nodes", explain=self.explain)

    def _daemon(self, name: str, *arguments: str) -> None:
        program = find_daemon(name)
        assert program is not None, f"{name} is not installed"
        log = self.folder / f"{name}-{len(self.daemons)}.out"
        self.daemons.append(Daemon([program, *arguments], log, env=self.env))

    def _idle_nodes(self) -> set[str]:
        dead = [daemon.command[0] for daemon in self.daemons if not daemon.alive()]
        assert not dead, f"{dead} ended at once: {self.explain()}"
        shown = self.run("sinfo", "--noheader", "--Node", "--format=%N %T", check=False).stdout
        return {line.split()[0] for line in shown.splitlines() if line.split()[1:] == ["idle"]}

    def run(
        self,
        *command: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 300,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """A command that sees this cluster (`sbatch --wait …`, `srun …`); its output as text, an error if it fails."""
        done = subprocess.run(
            command, cwd=cwd, env={**self.env, **(env or {})}, capture_output=True, text=True, timeout=timeout
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def explain(self) -> str:
        return "\n".join(f"{daemon.command[0]}: {daemon.tail()}" for daemon in self.daemons)

    def stop(self) -> None:
        """Ends whatever was started with this cluster's configuration: jobs first, for which slurmd would wait."""
        daemons = {daemon.process.pid for daemon in self.daemons}
        for process in self.processes():
            with contextlib.suppress(psutil.Error):  # it ended meanwhile
                if process.pid not in daemons and process.ppid() not in daemons:
                    process.kill()
        for daemon in reversed(self.daemons):
            daemon.stop()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def processes(self) -> list[psutil.Process]:
        """All processes of this cluster but this one: daemons, job steps, ranks.

        They carry its SLURM_CONF. Only slurmstepd writes its title over its environment: it is known by its folder.
        """
        found = []
        for process in psutil.process_iter():
            try:
                if process.name() == "slurmstepd":
                    own = process.cwd().startswith(str(self.folder))
                else:
                    own = process.pid != os.getpid() and process.environ().get("SLURM_CONF") == str(self.conf)
            except psutil.Error:
                continue  # it ended meanwhile, or is not ours to look into
            if own:
                found.append(process)
        return found
