"""The libraries and programs that training needs: each is loaded, or asked for its version, in a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from harness.doctor.rows import LOAD_SECONDS, Row, ask, last_line, unusable
from harness.launching.environment import launch_environment

TORCH = """
import torch
cuda = torch.cuda.is_available()
(torch.ones(2, 2, device="cuda" if cuda else "cpu") @ torch.ones(2, 2, device="cuda" if cuda else "cpu")).sum().item()
gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if cuda else []
answer = {"version": torch.__version__, "cuda": torch.version.cuda, "gpus": gpus}
"""

GYMNASIUM = """
import gymnasium
env = gymnasium.make("CartPole-v1")
env.reset(seed=0)
env.step(0)
answer = {"version": gymnasium.__version__}
"""

HOROVOD = """
import horovod
import torch
import horovod.torch as hvd
answer = {"version": horovod.__version__, "gpus": torch.cuda.is_available(),
          "MPI": bool(hvd.mpi_built()), "Gloo": bool(hvd.gloo_built()), "NCCL": bool(hvd.nccl_built())}
"""

MPI4PY = """
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
answer = {"version": mpi4py.__version__, "library": MPI.Get_library_version().split(",")[0].strip()}
"""


def check_torch() -> list[Row]:
    found, why = ask(TORCH)
    if found is None:
        again = "make install installs the version that was tested"
        return [unusable("torch", "torch", why, again, f"{again}; an own build: import torch in a shell")]
    rows = [Row("torch", "ok", found["version"])]
    if found["gpus"]:
        rows.append(Row("GPUs", "ok", f"{len(found['gpus'])}: {', '.join(found['gpus'])} (CUDA {found['cuda']})"))
    elif shutil.which("nvidia-smi") and found["cuda"] is None:
        advice = "install a CUDA build of the same torch, then make install for a Horovod with NCCL"
        rows.append(Row("GPUs", "broken", "the driver is here, but this torch is built without CUDA", advice))
    else:
        rows.append(Row("GPUs", "missing", "none: ranks train on cores", ""))
    return rows


def check_gymnasium() -> list[Row]:
    found, why = ask(GYMNASIUM)
    if found is None:
        return [unusable("gymnasium", "gymnasium", why, "make install", "make install; no environment can be made")]
    return [Row("gymnasium", "ok", found["version"])]


def check_horovod() -> list[Row]:
    found, why = ask(HOROVOD)
    if found is None:
        missing = "make install compiles it (about 2 minutes); until then only one rank trains"
        return [
            unusable("Horovod", "horovod", why, missing, "built for another torch or MPI? make install builds anew")
        ]
    parts = [f"{name} {'yes' if found[name] else 'no'}" for name in ("MPI", "Gloo", "NCCL")]
    detail = f"{found['version']}: {', '.join(parts)}"
    if not (found["MPI"] or found["Gloo"]):
        return [Row("Horovod", "broken", detail, "it carries nothing: make install builds it with MPI and Gloo")]
    if found["gpus"] and not found["NCCL"]:
        return [Row("Horovod", "ok", detail, "GPUs reduce faster by NCCL: put nvcc on the PATH and make install")]
    return [Row("Horovod", "ok", detail)]


def check_programs() -> list[Row]:
    """mpi4py and the programs that start ranks."""
    found, why = ask(MPI4PY)
    starters = [
        check_program("mpirun", "make install brings one", found["library"] if found else None),
        check_program("horovodrun", "make install builds Horovod"),
    ]
    if found is None:
        advice = "make install (MPI=system where the cluster has its own MPI)"
        return [unusable("mpi4py", "mpi4py", why, f"{advice}; sync.path = 'mpi' needs it", advice), *starters]
    return [Row("mpi4py", "ok", f"{found['version']}, {found['library']}"), *starters]


def check_program(name: str, missing: str, library: str | None = None) -> Row:
    """A program on the PATH of a launch, by its version; where `library` is given it must be of that MPI."""
    env = launch_environment(os.environ)
    path = shutil.which(name, path=env["PATH"])
    if path is None:
        return Row(name, "missing", "not on the PATH", missing)
    try:
        shown = subprocess.run([path, "--version"], env=env, capture_output=True, text=True, timeout=LOAD_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Row(name, "broken", f"{path}: {error}", "make install")
    if shown.returncode:
        return Row(name, "broken", f"{path}: {last_line(shown.stderr)}", "make install")
    version = (shown.stdout.strip() or "says no version").splitlines()[0]
    if library is not None and version_number(version) not in (None, version_number(library)):
        advice = "put the mpirun of that library first on the PATH, or make install"
        return Row(name, "broken", f"{path}: {version}, but mpi4py loads {library}", advice)
    return Row(name, "ok", f"{path}: {version}")


def version_number(text: str) -> str | None:
    found = re.search(r"\d+\.\d+(\.\d+)?", text)
    return found[0] if found else None
