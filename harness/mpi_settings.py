"""Open MPI's settings for ranks of ours, which a launch and every rank put into the environment; what users set stays.

Here and not with the ranks: a process that only launches them must not wait for torch to be imported.
"""

from __future__ import annotations

from pathlib import Path

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
