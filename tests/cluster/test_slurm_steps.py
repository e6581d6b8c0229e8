"""Inside steps of a real Slurm: a step's own variables belong together, and the cores of one task are slots."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.cluster.slurm import SlurmCluster

DRIVER = """
import json, os, sys, time
from pathlib import Path
from harness.launching import JobSpec, available_hosts, get_launcher
hosts = available_hosts(None, os.environ)
slots = [[host.name, host.slots] for host in hosts]
output = Path(sys.argv[1])
ranks = sum(host.slots for host in hosts)
job = JobSpec(("sh", "-c", "echo rank"), ranks, tuple(hosts), {}, f"step-{os.getpid()}", output, Path.cwd())
running = get_launcher("mpirun").start(job)
deadline = time.monotonic() + 60
while (outcome := running.poll()) is None and time.monotonic() < deadline:
    time.sleep(0.05)
running.end()
print(json.dumps([slots, None if outcome is None else outcome.describe(), output.read_text().count("rank")]))
"""


def run_in(slurm: SlurmCluster, folder: Path, name: str, *command: str) -> list:
    (folder / "driver.py").write_text(DRIVER)
    root = str(Path(__file__).parents[2])
    words = [*command, sys.executable, "driver.py", f"{name}.log"]
    done = slurm.run(*words, cwd=folder, env={"PYTHONPATH": root}, timeout=180)
    return json.loads(done.stdout.splitlines()[-1])


def test_each_kind_of_step_gets_its_own_slots_and_its_ranks_start(slurm: SlurmCluster, tmp_path: Path) -> None:
    two = min(2, len(os.sched_getaffinity(0)))
    salloc = ("salloc", "-Q", "-N2", "--ntasks-per-node=2")
    # of two nodes with two tasks each, one task on one node: the cores of that task
    assert run_in(slurm, tmp_path, "one-of-two", *salloc, "srun", "-N1", "-n1") == [
        [["localhost", two]], "ended well", two,
    ]  # fmt: skip
    # a task of several cores, as `srun -c 16 --pty bash` gives a shell
    assert run_in(slurm, tmp_path, "cores", "srun", "-Q", "-c", "2") == [[["localhost", two]], "ended well", two]
    # the allocation itself, as before: a slot for each task
    assert run_in(slurm, tmp_path, "whole", *salloc) == [[["n1", 2], ["n2", 2]], "ended well", 4]
