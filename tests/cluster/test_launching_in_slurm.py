"""mpirun inside an allocation of two nodes: started, told to stop and ended by Slurm's means, without ssh."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path

from harness.launching.processes import processes_of
from tests.cluster.slurm import SlurmCluster

DRIVER = """
import json, os, shutil, signal, subprocess, sys, time
from pathlib import Path
from harness.launching import JobSpec, available_hosts, get_launcher, inside_launcher
from harness.launching.outcome import split_output
from harness.launching.remote import on_each

def lines(): return [line for lines in split_output(output.read_text())[1].values() for line in lines]
def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.1)

run_id, output = sys.argv[1], Path("output.log").resolve()
script = '''
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGUSR2, lambda *_: print("told", flush=True))
print("ready on", os.environ["SLURMD_NODENAME"], flush=True)
while True: time.sleep(0.1)
'''
assert inside_launcher(os.environ) is None  # a batch script is a place to start ranks from
hosts = available_hosts(None, os.environ)
job = JobSpec((sys.executable, "-c", script), 2, tuple(hosts), {}, run_id, output, Path.cwd())
running = get_launcher("mpirun").start(job)
wait_until(lambda: len(lines()) == 2)
seen = {"hosts": [[host.name, host.slots] for host in hosts], "ready": sorted(lines())}
other = next(host.name for host in hosts if host.name != os.environ["SLURMD_NODENAME"])
seen["answer"] = on_each({other: ["stop", "no-such-run"]}, os.environ, 20.0)
seen["reached"] = running.request_stop()
wait_until(lambda: lines().count("told") >= 2)
seen["problems"] = running.end(grace=2)
print(json.dumps(seen))
"""


def test_a_job_in_an_allocation_is_started_told_and_ended_without_ssh(slurm: SlurmCluster, tmp_path: Path) -> None:
    run_id = f"slurm-{os.getpid()}"
    (tmp_path / "driver.py").write_text(DRIVER)
    script = tmp_path / "job.sbatch"
    script.write_text(f"#!/bin/sh\nexec {shlex.join([sys.executable, 'driver.py', run_id])}\n")
    # an ssh that fails, were it called
    (tmp_path / "ssh").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "ssh").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"

    asked = ("sbatch", "--wait", "-N2", "--ntasks-per-node=1", "--output=job.log", str(script))
    done = slurm.run(*asked, cwd=tmp_path, env={"PATH": path}, timeout=300, check=False)

    log = (tmp_path / "job.log").read_text()
    assert done.returncode == 0, log
    seen = json.loads(log.splitlines()[-1])
    assert seen["hosts"] == [["n1", 1], ["n2", 1]]
    assert seen["ready"] == ["ready on n1", "ready on n2"]
    assert seen["answer"] == {"n2": []}  # by srun: Slurm's n2 is this machine too, and this run is nobody's
    assert seen["reached"] >= 2
    assert seen["problems"] == []
    assert processes_of(run_id) == {}
