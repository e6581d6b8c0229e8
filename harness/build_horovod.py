"""Builds Horovod's unchanged source once and keeps the wheel: `python harness/build_horovod.py`.

Horovod 0.28.1 asks its compiler for C++14, and torch's headers have needed C++17 since 2.1. Its source need not change:
a CMake tool-chain file raises the standard. The wheel is kept in a folder named by all that it was compiled against
(torch, MPI, CUDA, Python), so that no later installation compiles again. Standard library alone: it runs before
anything is installed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

VERSION = "0.28.1"

TOOLCHAIN = 'set(CMAKE_PROJECT_horovod_INCLUDE "{include}")\n'
INCLUDE = """\
set(CMAKE_CXX14_STANDARD_COMPILE_OPTION "-std=c++17")
set(CMAKE_CXX14_EXTENSION_COMPILE_OPTION "-std=gnu++17")
"""


def mpi_name(mpicxx: str) -> str:
    """The MPI behind a compiler wrapper, as a word: `openmpi-4.1.8`."""
    for flag in ("--showme:version", "-v"):
        shown = subprocess.run([mpicxx, flag], capture_output=True, text=True)
        found = re.search(r"(Open MPI|MPICH|MVAPICH2?)\D*([0-9][0-9.]*)", shown.stdout + shown.stderr)
        if found:
            return f"{found[1].replace(' ', '').lower()}-{found[2]}"
    return "mpi-unknown"


def nccl_home() -> Path | None:
    """The folder of the NCCL that torch brings (`nvidia-nccl-cu*`), where nvcc is there to build against it."""
    if shutil.which("nvcc") is None:
        return None
    probe = "import torch, sys; sys.exit(0 if torch.version.cuda else 1)"
    if subprocess.run([sys.executable, "-c", probe], capture_output=True).returncode:
        return None
    for entry in sys.path:
        home = Path(entry) / "nvidia" / "nccl"
        if (home / "include" / "nccl.h").is_file():
            return home
    return None


def build_name(mpicxx: str, nccl: Path | None) -> str:
    torch = importlib.metadata.version("torch").replace("+", "-")
    cuda = "none"
    if nccl is not None:
        shown = subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout
        found = re.search(r"release ([0-9.]+)", shown)
        cuda = f"{found[1] if found else 'unknown'}-nccl"
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    return f"torch-{torch}_{mpi_name(mpicxx)}_cuda-{cuda}_{python}_{platform.machine()}"


def build_environment(mpicxx: str, nccl: Path | None, scratch: Path) -> dict[str, str]:
    include, toolchain = scratch / "cxx17.cmake", scratch / "toolchain.cmake"
    include.write_text(INCLUDE)
    toolchain.write_text(TOOLCHAIN.format(include=include.as_posix()))
    env = dict(os.environ)
    bin_dirs = [str(Path(sys.executable).parent), str(Path(mpicxx).parent)]
    env.update(
        PATH=os.pathsep.join([*bin_dirs, env.get("PATH", "")]),
        CMAKE_TOOLCHAIN_FILE=str(toolchain),
        CMAKE_POLICY_VERSION_MINIMUM="3.5",
        HOROVOD_WITH_PYTORCH="1",
        HOROVOD_WITH_MPI="1",
        HOROVOD_WITH_GLOO="1",
        HOROVOD_WITHOUT_TENSORFLOW="1",
        HOROVOD_WITHOUT_MXNET="1",
        MAKEFLAGS=f"-j{os.cpu_count() or 1}",
    )
    if (Path(sys.prefix) / "lib" / "libmpi.so").exists() and Path(mpicxx).parent == Path(sys.executable).parent:
        env["OPAL_PREFIX"] = sys.prefix  # the prefix built into the PyPI Open MPI is not where pip puts it
    if nccl is not None:
        env.update(HOROVOD_GPU="CUDA", HOROVOD_GPU_OPERATIONS="NCCL", HOROVOD_NCCL_HOME=str(nccl))
        env["HOROVOD_NCCL_LINK"] = "SHARED"
        library = nccl / "lib" / "libnccl.so"
        if not library.exists():  # the package has libnccl.so.2 alone, and the linker asks for libnccl.so
            library.symlink_to("libnccl.so.2")
    return env


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rl-harness" / "wheels"
    parser.add_argument("--wheels", type=Path, default=cache, help="where wheels are kept (%(default)s)")
    parser.add_argument("--mpicxx", default=None, help="the MPI compiler; default: beside this Python, else on PATH")
    args = parser.parse_args()

    beside = Path(sys.executable).parent / "mpicxx"
    mpicxx = args.mpicxx or (str(beside) if beside.exists() else shutil.which("mpicxx"))
    if mpicxx is None:
        print("no mpicxx: install an MPI, or `pip install openmpi==4.1.8`", file=sys.stderr)
        return 2
    nccl = nccl_home()
    folder = args.wheels / build_name(mpicxx, nccl)
    wheels = sorted(folder.glob("horovod-*.whl"))
    if not wheels:
        print(f"Horovod {VERSION} is compiled for {folder.name}: about 2 minutes on 2 cores, once.", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps"]
            command += ["--no-binary", "horovod", "--no-cache-dir", "--wheel-dir", scratch, f"horovod=={VERSION}"]
            log = folder / "build.log"
            with log.open("w") as out:
                env = build_environment(mpicxx, nccl, Path(scratch))
                status = subprocess.run(command, env=env, stdout=out, stderr=subprocess.STDOUT).returncode
            built = list(Path(scratch).glob("horovod-*.whl"))
            if status or not built:
                print("".join(log.read_text(errors="replace").splitlines(keepends=True)[-30:]), file=sys.stderr)
                print(f"Horovod did not compile; the whole log: {log}", file=sys.stderr)
                return 1
            aside = folder / f".{built[0].name}.{os.getpid()}"
            shutil.copy2(built[0], aside)
            aside.rename(folder / built[0].name)
        wheels = sorted(folder.glob("horovod-*.whl"))
    else:
        print(f"Horovod {VERSION}: the wheel compiled earlier for {folder.name}", flush=True)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", str(wheels[-1])]
    return subprocess.run(install).returncode


if __name__ == "__main__":
    sys.exit(main())
