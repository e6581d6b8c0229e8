"""horovodrun without what takes its time: a question about Horovod's library, and a layer of Open MPI's.

Its launcher has already read from the library that the controller is there; horovodrun would find out by processes of
its own that load torch, about 2 s before each start. And its own choice of Open MPI's byte transfer layers hides the
environment's, which leaves out `ofi` (1.0 s at each end). A script that Python runs by its path, so that nothing of
this project is imported.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    del sys.path[0]  # this folder, whose modules are not to be found by their bare names
    from horovod.runner import launch

    launch.mpi_built = launch.gloo_built = lambda verbose=False: True
    layers = os.environ.get("OMPI_MCA_btl", "^ofi")
    flags = sys.modules["horovod.runner.mpi_run"]._OMPI_FLAGS  # type: ignore[attr-defined]
    flags[:] = [flag for flag in flags if " btl " not in flag]
    flags.append("-mca btl ^openib,ofi" if layers == "^ofi" else f"-mca btl {layers}")  # openib Horovod leaves out itself
    sys.argv[0] = "horovodrun"
    sys.exit(launch.run_commandline())
