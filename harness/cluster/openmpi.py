"""Open MPI and Horovod as ranks of ours want them, before either is loaded."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from harness.cluster.place import detect_place
from harness.mpi_settings import BTL, MPI_SETTINGS, SETTINGS_BETWEEN_HOSTS


def prepare_environment() -> None:
    """What must stand in the environment before MPI or Horovod is loaded; what the user set stays.

    The PyPI Open MPI has a prefix built in that is not where pip put it. Horovod looks for work once a cycle: a small
    network's step is shorter than its default of 1 ms.
    """
    if (Path(sys.prefix) / "lib" / "libmpi.so").exists() or list((Path(sys.prefix) / "lib").glob("libmpi.so.*")):
        os.environ.setdefault("OPAL_PREFIX", sys.prefix)
    for name, value in MPI_SETTINGS.items():
        os.environ.setdefault(name, value)
    if os.environ[BTL] == "^openib":  # not the user's word but that of a horovodrun typed by hand
        os.environ[BTL] = "^openib,ofi"
    os.environ.setdefault("HOROVOD_CYCLE_TIME", "0.1")
    place = detect_place(os.environ)
    if place.local_size < place.size and not any(name.startswith("OMPI_MCA_coll_tuned_") for name in os.environ):
        os.environ.update(SETTINGS_BETWEEN_HOSTS)
