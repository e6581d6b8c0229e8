"""The environment of a job: what an outer launcher left is taken out, what the launchers and ranks need is put in."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.cluster.openmpi import MPI_SETTINGS
from harness.cluster.slurm import slurm_task_cores

# Set by mpirun (and PMIx, PRRTE, Hydra) for its ranks: an mpirun below it takes them for its own and fails.
OUTER_MPI = re.compile(r"(OMPI|PMIX|PMI|PMI2|PRTE|ORTE|HYDI)_|MPI_LOCALN?RANK")
# …but these are how users set Open MPI up
SETTINGS_OF_MPI = re.compile(r"(OMPI|PMIX|PRTE)_MCA_|OMPI_ALLOW_RUN_AS_ROOT")
# …except those that mpirun itself gives its ranks in the form of settings
SET_BY_MPIRUN = re.compile(r"OMPI_MCA_(ess|orte|pmix|plm$|initial_wdir|mpi_oversubscribe|shmem_RUNTIME_QUERY_hint)")
# What horovodrun sets for its ranks; other HOROVOD_ variables are the users' settings.
OUTER_HOROVOD = re.compile(
    r"HOROVOD_((LOCAL_|CROSS_)?(RANK|SIZE)|HOSTNAME|GLOO_(RENDEZVOUS_\w+|IFACE)|CONTROLLER|CPU_OPERATIONS|ELASTIC)$"
)
# A shell line of horovodrun holds every name: others than these (bash's functions, say) would break it.
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What describes this host and is wrong on another one. horovodrun does not forward visible devices either.
OF_THIS_HOST = re.compile(
    r"HOST|HOSTNAME|PWD|OLDPWD|SHLVL|_|TERM|DISPLAY|XAUTHORITY|TMPDIR|\w*CUDA_VISIBLE_DEVICES"
    r"|(SSH|SLURM|SLURMD|XDG|DBUS)_\w+"
)


def scrubbed(env: Mapping[str, str]) -> dict[str, str]:
    """`env` without what an outer mpirun or horovodrun set for its ranks; what users set is kept."""
    inside = "OMPI_COMM_WORLD_SIZE" in env
    kept = {}
    for name, value in env.items():
        if not NAME.fullmatch(name) or OUTER_HOROVOD.match(name):
            continue
        if OUTER_MPI.match(name) and not SETTINGS_OF_MPI.match(name):
            continue
        if inside and SET_BY_MPIRUN.match(name):
            continue
        kept[name] = value
    return kept


def with_own_path(command: Sequence[str], env: Mapping[str, str]) -> tuple[str, ...]:
    """`command` of a rank, on the PATH that this process has.

    Launchers are found by this environment's folder first on theirs (horovodrun calls mpirun by its name alone), and
    mpirun puts it first once more; a user's wrapper script means the `python` of the environment that is active.
    """
    return ("env", f"PATH={env.get('PATH', os.defpath)}", *command)


def launch_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The environment of a launcher, and through it of its ranks: `env` scrubbed, and what a launch needs."""
    result = scrubbed(env)
    bin_folder = Path(sys.executable).parent
    others = [folder for folder in result.get("PATH", os.defpath).split(os.pathsep) if folder != str(bin_folder)]
    result["PATH"] = os.pathsep.join([str(bin_folder), *others])
    if (bin_folder / "mpirun").exists() and (Path(sys.prefix) / "lib" / "libmpi.so").exists():
        result["OPAL_PREFIX"] = sys.prefix  # the prefix built into the PyPI Open MPI is not where pip puts it
    for name, value in MPI_SETTINGS.items():
        result.setdefault(name, value)
    # milliseconds; Horovod's own 1 ms is most of the time that a small all-reduce takes
    result.setdefault("HOROVOD_CYCLE_TIME", "0.1")
    if os.geteuid() == 0:
        result.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    if "SLURM_JOB_ID" in result:
        result["SLURM_OVERLAP"] = "1"  # or several mpirun in one allocation queue up behind each other
    if slurm_task_cores(env) is not None:
        result.pop("SLURM_JOBID", None)  # by which mpirun would take its slots from the job, where this is one task
    return result


def forwarded(env: Mapping[str, str], added: Mapping[str, str]) -> list[str]:
    """The names in `env` that ranks on other hosts are to have: what does not describe this host, and all `added`."""
    return sorted(name for name in env if name in added or not OF_THIS_HOST.fullmatch(name))


def inside_launcher(env: Mapping[str, str]) -> str | None:
    """The launcher that this process is a rank of (`horovodrun`, `mpirun`, `srun`), None where it is none's.

    A batch script and a step of one task (`srun --pty bash`) are places to start ranks from.
    """
    if "HOROVOD_RANK" in env or "HOROVOD_GLOO_RENDEZVOUS_ADDR" in env:
        return "horovodrun"
    if "OMPI_COMM_WORLD_RANK" in env:
        return "mpirun"
    if "SLURM_STEP_ID" in env:
        return "srun" if env.get("SLURM_STEP_NUM_TASKS", "1") != "1" else None
    return "mpirun" if "PMI_RANK" in env or "PMIX_RANK" in env else None
