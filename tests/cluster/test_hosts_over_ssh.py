"""Two ranks on two hosts by ssh: the environment reaches both, a death is named with its host, the end is the end."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.launching.processes import processes_of
from tests.cluster.hosts import TwoHosts, find_sshd
from tests.conftest import need

LAUNCHERS = ["mpirun", "horovodrun", "horovodrun-gloo"]


@pytest.fixture(scope="module")
def hosts(short_folder: Path) -> Iterator[TwoHosts]:
    context = all(shutil.which(tool) for tool in ("ip", "unshare", "ssh", "ssh-keygen")) and find_sshd()
    need(os.geteuid() == 0 and context, "needs root, ip and sshd (Debian: iproute2, openssh-server)")
    folder = short_folder / "hosts"
    folder.mkdir()
    two = TwoHosts(folder)
    yield two
    two.stop()


# A driver on the first host; SCRIPT is what each of the two ranks runs, WATCH what the driver does with `running`.
DRIVER = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
from harness.launching import Host, JobSpec, get_launcher
from harness.launching.outcome import split_output

def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.1)

def lines():
    return sorted(line for lines in split_output(output.read_text())[1].values() for line in lines)

output = Path("{run_id}.log").resolve()
Path("{run_id}.py").write_text({script!r})
hosts = (Host("{one}", 1), Host("{two}", 1))
job = JobSpec((sys.executable, "{run_id}.py"), 2, hosts, {{"ODD": "a;b 'c' $HOME"}}, "{run_id}", output, Path.cwd())
running = get_launcher("{launcher}").start(job)
try:
{watch}
finally:
    problems = running.end(grace=2)
assert not problems, problems
"""


def drive(hosts: TwoHosts, launcher: str, script: str, watch: str) -> str:
    run_id = f"hosts-{os.getpid()}-{launcher}-{abs(hash((script, watch)))}"
    one, two = hosts.addresses
    watched = "\n".join(f"    {line}" for line in watch.strip().splitlines())
    driver = DRIVER.format(run_id=run_id, script=script, one=one, two=two, launcher=launcher, watch=watched)
    printed = hosts.python(driver)
    # this process sees those of both hosts: its namespace lies around theirs
    assert processes_of(run_id) == {}
    return printed


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_ranks_on_both_hosts_get_the_environment(hosts: TwoHosts, launcher: str) -> None:
    script = "import os; print(os.uname().nodename, os.environ['ODD'], os.environ['HARNESS_RUN_ID'][:5], os.getcwd())"
    watch = "wait_until(lambda: running.poll() is not None)\nassert running.poll().exit_code == 0, output.read_text()\n"
    printed = drive(hosts, launcher, script, watch + "print(json.dumps(lines()))")
    assert json.loads(printed) == [f"host-{letter} a;b 'c' $HOME hosts {hosts.folder}" for letter in "ab"]


# Deaf to polite requests, with a worker in a session of its own
DEAF = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_end_leaves_nothing_on_either_host(hosts: TwoHosts, launcher: str) -> None:
    watch = """
wait_until(lambda: lines() == ["ready", "ready"])
began = time.monotonic()
assert running.end(grace=2) == []
assert time.monotonic() - began < 15
"""
    drive(hosts, launcher, DEAF, watch)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_what_a_killed_launcher_left_on_the_other_host_is_ended(hosts: TwoHosts, launcher: str) -> None:
    watch = """
wait_until(lambda: lines() == ["ready", "ready"])
os.kill(running.pid, signal.SIGKILL)
wait_until(lambda: running.poll() is not None)
"""
    drive(hosts, launcher, DEAF, watch)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_stop_request_reaches_the_ranks_of_both_hosts_once(hosts: TwoHosts, launcher: str) -> None:
    script = """
import signal, sys, time
received = []
signal.signal(signal.SIGUSR2, lambda *_: received.append(1))
print("listening", flush=True)
while not received: time.sleep(0.05)
time.sleep(2)
print("told", len(received), flush=True)
sys.exit(0)
"""
    watch = """
wait_until(lambda: lines() == ["listening", "listening"])
assert [running.request_stop(), running.request_stop()] == [2, 0]
wait_until(lambda: running.poll() is not None)
print(json.dumps(lines()))
"""
    assert json.loads(drive(hosts, launcher, script, watch)) == ["listening", "listening", "told 1", "told 1"]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_rank_that_dies_on_the_other_host_is_named_with_it(hosts: TwoHosts, launcher: str) -> None:
    script = """
import os, signal, time
if os.uname().nodename == "host-b": os.kill(os.getpid(), signal.SIGKILL)
time.sleep(600)
"""
    watch = "wait_until(lambda: running.poll() is not None)\nprint(running.poll().describe())"
    said = drive(hosts, launcher, script, watch).strip()
    # Gloo's ranks elsewhere are children of an ssh, which ends with 255 for any signal
    how = "ended with exit code 255" if launcher == "horovodrun-gloo" else "was killed by SIGKILL"
    assert said in [f"rank 1 on {name} {how}" for name in ("host-b", hosts.addresses[1])]


def test_a_host_that_cannot_be_reached_is_told(hosts: TwoHosts) -> None:
    """A job was left on a host that has gone since: its end must not be silent about it."""
    watch = """
wait_until(lambda: running.poll() is not None)
from harness.launching import find_job
saved = running.save() | {"hosts": [{"name": "HOST", "slots": 1}]}
print(find_job(saved).end())
""".replace("HOST", hosts.addresses[1][:-1] + "9")
    said = drive(hosts, "mpirun", "pass", watch)
    assert f"{hosts.addresses[1][:-1]}9: could not be reached to end what is left of the job (ssh: " in said
