"""What of an environment is read once, as libraries are loaded: with another value a process must start fresh."""

from __future__ import annotations

import sys
from collections.abc import Mapping

NUMERIC = ("OMP_", "KMP_", "MKL_", "OPENBLAS_", "GOMP_", "CUDA_", "NVIDIA_", "TORCH", "PYTORCH_")
AT_IMPORT = (*NUMERIC, "LD_", "PYTHON", "MUJOCO_GL", "LC_", "LANG")
"""Prefixes of what libraries, and Python itself, read once."""
SET_ANEW = ("PYTHONPATH", "PYTHONUNBUFFERED", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "CUDA_MODULE_LOADING")
"""…but for these, which are set anew in what is forked, or which imports set themselves."""
AT_FIRST_USE = ("TORCHINDUCTOR_", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""…and these: neither the compiler nor CUDA is used before the fork, and threads are set after it."""
SINGLE_THREADED = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""The server's own, since it must hold no thread."""
ROOM = "HARNESS_WARM_ROOM"
"""Variables that only make room for a child's environment, where the kernel shows this process's."""


def read_at_import(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of `environ` that is read once, when a library is loaded."""
    chosen = {
        name: value
        for name, value in environ.items()
        if name.startswith(AT_IMPORT) and name not in SET_ANEW and not name.startswith(AT_FIRST_USE)
    }
    # mpirun puts its own folder there, which is this environment's: its library is found without
    folders = [folder for folder in chosen.pop("LD_LIBRARY_PATH", "").split(":") if folder != sys.prefix + "/lib"]
    return {**chosen, "LD_LIBRARY_PATH": ":".join(folders)}
