"""Two real ranks that reduce a vector, by each path there is. Plain scripts, without this package in them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

from harness.doctor.rows import Row
from harness.launching import processes
from harness.launching.environment import launch_environment

REDUCE_SECONDS = 60.0

REDUCE_BY_HOROVOD = """
import time
import torch
import horovod.torch as hvd
hvd.init()
vector = torch.full((5000,), hvd.rank() + 1.0)
total = hvd.allreduce(vector, op=hvd.Sum, name="total")
times = []
for _ in range(50):
    begun = time.perf_counter()
    hvd.allreduce_(vector, op=hvd.Average, name="timed")
    times.append(time.perf_counter() - begun)
middle = sorted(times)[25] * 1000
print(f"\\nREDUCED rank={hvd.rank()} size={hvd.size()} total={total[0].item()} ms={middle:.3f}", flush=True)
hvd.shutdown()
"""

REDUCE_BY_MPI4PY = """
import time
import numpy
from mpi4py import MPI
world = MPI.COMM_WORLD
vector = numpy.full(5000, world.rank + 1.0, dtype=numpy.float32)
total = numpy.empty_like(vector)
world.Allreduce(vector, total)
times = []
for _ in range(50):
    begun = time.perf_counter()
    world.Allreduce(MPI.IN_PLACE, vector, op=MPI.MAX)
    times.append(time.perf_counter() - begun)
middle = sorted(times)[25] * 1000
print(f"\\nREDUCED rank={world.rank} size={world.size} total={total[0]} ms={middle:.3f}", flush=True)
"""


def reduce_with_two_ranks(what: str, launcher: list[str], code: str, advice: str) -> Row:
    """Two real ranks under `launcher` add up 5,000 numbers; whatever they leave behind is ended."""
    # two ranks here, not on the nodes of an allocation that this may run inside
    here = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    env = launch_environment(here)
    program = shutil.which(launcher[0], path=env["PATH"])
    if program is None:
        return Row(what, "missing", f"there is no {launcher[0]}", "make install")
    run_id = f"doctor-{uuid.uuid4().hex[:12]}"
    env.update({processes.RUN_ID: run_id, "OMP_NUM_THREADS": "1"})
    with tempfile.TemporaryDirectory() as folder:
        script, output = Path(folder) / "reduce.py", Path(folder) / "output"
        script.write_text(code)
        with output.open("w") as out:
            job = subprocess.Popen(
                [program, *launcher[1:], sys.executable, str(script)],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                ended = f"exit code {job.wait(timeout=REDUCE_SECONDS)}"
            except subprocess.TimeoutExpired:
                ended = f"no result within {REDUCE_SECONDS:.0f} s"
            finally:
                processes.end_all(run_id)
                job.wait()
        text = output.read_text(errors="replace")
    reduced = re.findall(r"REDUCED rank=(\d) size=2 total=3.0 ms=([0-9.]+)", text)
    if sorted(rank for rank, _ in reduced) == ["0", "1"] and ended == "exit code 0":
        return Row(what, "ok", f"20 KB in {max(float(ms) for _, ms in reduced):.2f} ms")
    return Row(what, "broken", f"{ended}: {reason(text)}", advice)


def reason(text: str) -> str:
    """The line of a launcher's output that says most: a Python error where there is one, else the first line."""
    lines = [re.sub(r"^\[[^\]]*\]<?\w*>?:?", "", line).strip(" -*") for line in text.splitlines()]
    lines = [line for line in lines if line]
    errors = [line for line in lines if re.match(r"\w*(\.\w+)*(Error|Exception)\b", line)]
    return ((errors or lines)[0] if lines else "no output")[:200]


def check_reduces() -> list[Row]:
    gloo = "use launcher = 'horovodrun' (over MPI); make install builds Horovod with both"
    mpi = "try launcher = 'horovodrun-gloo'; make install builds Horovod and mpi4py against the same MPI"
    return [
        reduce_with_two_ranks(
            "2 ranks: Horovod, MPI",
            ["horovodrun", "-np", "2", "-H", "localhost:2", "--mpi", "--disable-cache"],
            REDUCE_BY_HOROVOD,
            mpi,
        ),
        reduce_with_two_ranks(
            "2 ranks: Horovod, Gloo",
            ["horovodrun", "-np", "2", "-H", "localhost:2", "--gloo", "--disable-cache"],
            REDUCE_BY_HOROVOD,
            gloo,
        ),
        reduce_with_two_ranks(
            "2 ranks: mpi4py",
            ["mpirun", "-np", "2", "-H", "localhost:2", "--bind-to", "none"],
            REDUCE_BY_MPI4PY,
            mpi,
        ),
    ]
