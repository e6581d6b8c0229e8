"""Open MPI and Horovod as ranks of ours want them, before either is loaded."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from harness.cluster.place import detect_place

BTL = "OMPI_MCA_btl"
"""The byte transfer layers that Open MPI may take."""
MPI_SETTINGS = {
    # The end of this byte transfer layer takes 1.0 s in each MPI_Finalize, and no rank of ours talks by it.
    BTL: "^ofi",
    # Ranks that wait in MPI spin otherwise, and starve Horovod's threads.
    "OMPI_MCA_mpi_yield_when_idle": "1",
    # A message between hosts is by default sent in pieces of up to 2 GB, and the word that lets the other side begin
    # waits behind them: both directions in turn, at half of the bandwidth. In pieces of 128 KB they go together.
    "OMPI_MCA_btl_tcp_rdma_pipeline_frag_size": str(128 * 1024),
    # What is reduced while other work goes on, as a ring: the default sends all to one rank, and then all back.
    "OMPI_MCA_coll_libnbc_iallreduce_algorithm": "1",
}
ALLOWED_EXIT = "OMPI_MCA_orte_allowed_exit_without_sync"
"""With "1" a rank may end with 0 without MPI_Finalize; who sets it bounds how long the others may wait for one."""
SETTINGS_BETWEEN_HOSTS = {
    "OMPI_MCA_coll_tuned_use_dynamic_rules": "1",
    "OMPI_MCA_coll_tuned_dynamic_rules_filename": str(Path(__file__).with_name("allreduce_between_hosts.rules")),
}
"""Where ranks lie on several hosts. For large buffers Open MPI chooses Rabenseifner's algorithm, which sends twice what
is needed where the number of ranks is no power of two; these rules have it take a ring there."""


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
