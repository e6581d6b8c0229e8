"""The machine: its cores, Slurm, a place for a study's database, a compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import psutil

from harness.cluster.machine import cpu_quota, usable_cores
from harness.doctor.rows import LOAD_SECONDS, Row, ask, last_line

SHARED_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "fuse.sshfs")

ELSEWHERE = "start studies in a folder on a local disk, or give --storage URL (PostgreSQL on shared file systems)"

DATABASE = """
import sqlite3, sys
import optuna
optuna.logging.set_verbosity(optuna.logging.ERROR)
path = sys.argv[1] + "/study.db"
connection = sqlite3.connect(path)
mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
connection.close()
study = optuna.create_study(storage="sqlite:///" + path, study_name="doctor")
trial = study.ask()
study.tell(trial, trial.suggest_float("x", 0, 1))
answer = {"mode": mode, "trials": len(study.trials), "version": optuna.__version__}
"""


def check_cores() -> list[Row]:
    """What ranks on this host will get; they share the cores that this process may use."""
    cores, quota = usable_cores(), cpu_quota()
    threads = f"threads per rank: {cores} with 1 rank, {max(1, cores // 2)} with 2"
    advice = "one core: ranks take turns, more of them train no faster here" if cores == 1 else ""
    limit = "" if quota is None else f", by a quota of {quota:g}"
    return [Row("cores", "ok", f"{cores} of {os.cpu_count()} available{limit}; {threads}", advice)]


def check_slurm() -> list[Row]:
    tools = [name for name in ("sbatch", "srun") if shutil.which(name)]
    if len(tools) < 2:
        lacking = " and ".join(name for name in ("sbatch", "srun") if name not in tools)
        return [Row("Slurm", "missing", f"no {lacking} on the PATH", "only needed on a cluster that Slurm runs")]
    inside = f"inside job {os.environ['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in os.environ else "outside an allocation"
    try:
        shown = subprocess.run(["sinfo", "-h", "-o", "%D"], capture_output=True, text=True, timeout=15)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [Row("Slurm", "broken", f"sbatch, srun found; {error}", "is slurmctld running?")]
    if shown.returncode:
        return [Row("Slurm", "broken", f"sbatch, srun found; {last_line(shown.stderr)}", "is slurmctld running?")]
    nodes = sum(int(count) for count in shown.stdout.split() if count.isdigit())
    return [Row("Slurm", "ok", f"sbatch, srun; {nodes} nodes; {inside}")]


def file_system(folder: Path) -> str:
    """The type of the file system that `folder` lies on, such as `ext4` or `nfs4`."""
    mounts = [mount for mount in psutil.disk_partitions(all=True) if folder.is_relative_to(mount.mountpoint)]
    return max(mounts, key=lambda mount: len(mount.mountpoint)).fstype if mounts else "unknown"


def check_database() -> list[Row]:
    """A study in SQLite below this folder, which is where `search run` makes one by default."""
    here = Path.cwd()
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=here) as folder:
            found, why = ask(DATABASE, folder)
    except OSError as error:
        return [Row("database", "broken", f"nothing can be written in {here}: {error.strerror}", ELSEWHERE)]
    if found is None:
        return [Row("database", "broken", why, "make install" if "No module" in why else ELSEWHERE)]
    if found["mode"] != "wal":
        return [Row("database", "broken", f"SQLite in mode {found['mode']}, not with a write-ahead log", ELSEWHERE)]
    if file_system(here) in SHARED_FILE_SYSTEMS:
        return [Row("database", "broken", f"{here} is on {file_system(here)}, where SQLite loses data", ELSEWHERE)]
    return [Row("database", "ok", f"SQLite study written (Optuna {found['version']}), write-ahead log works")]


def check_compiler() -> list[Row]:
    """A C++ compiler with OpenMP, which torch.compile calls on cores: one small library is compiled."""
    name = os.environ.get("CXX", "g++")
    path = shutil.which(name) or (shutil.which("clang++") if name == "g++" else None)
    if path is None:
        return [Row("C++ compiler", "missing", f"no {name} on the PATH", "install g++")]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text("#include <omp.h>\n#include <vector>\nint probe() { return omp_get_max_threads(); }\n")
        build = [path, "-std=c++17", "-O2", "-fopenmp", "-fPIC", "-shared", str(source), "-o", f"{folder}/probe.so"]
        try:
            done = subprocess.run(build, capture_output=True, text=True, timeout=LOAD_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            return [Row("C++ compiler", "broken", f"{path}: {error}", "install g++")]
    if done.returncode:
        return [Row("C++ compiler", "broken", f"{path}: {last_line(done.stderr)}", "install g++")]
    return [Row("C++ compiler", "ok", f"{path} (torch.compile can be used)")]
