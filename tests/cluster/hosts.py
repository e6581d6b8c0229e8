"""Two hosts of one machine: namespaces of network, processes and host name, joined by a cable; one has an sshd."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

from tests.cluster.daemons import Daemon
from tests.conftest import wait_for
from tests.multirank.launch import FOLDER, ROOT, SYNC_PATH, load

SSHD_CONFIG = """\
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
MaxStartups 100
"""
# Run on the first host: starts a rank on each, as `harness train --ranks` does
START_RANKS = """
import sys, time
from pathlib import Path
from harness.launching import Host, JobSpec, get_launcher
folder = Path({folder!r})
hosts = (Host({one!r}, 1), Host({two!r}, 1))
job = JobSpec((sys.executable, str(folder / "script.py")), 2, hosts, {env}, folder.name, folder / "output.log", folder)
running = get_launcher({launcher!r}).start(job)
deadline = time.monotonic() + {seconds}
try:
    while (outcome := running.poll()) is None and time.monotonic() < deadline:
        time.sleep(0.1)
finally:
    running.end(grace=2)
assert outcome is not None and outcome.exit_code == 0, f"{{outcome}}: {{job.output.read_text()[-4000:]}}"
"""
SSH_CONFIG = """\
IdentityFile {folder}/user_key
UserKnownHostsFile {folder}/known_hosts
StrictHostKeyChecking yes
"""


def find_sshd() -> str | None:
    """Debian keeps sshd in /usr/sbin, which is not on every PATH; it is only started by its whole path."""
    return shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/sbin")


class TwoHosts:
    """`addresses[0]` runs commands for the tests; `addresses[1]` is reached from there by ssh, with a key made here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # one network for each test session on this machine; 198.18.0.0/15 is set aside for such tests
        network = f"198.18.{os.getpid() % 250}"
        self.addresses = (f"{network}.1", f"{network}.2")
        self.spaces = tuple(f"harness-{os.getpid()}-{letter}" for letter in "ab")
        self.daemon: Daemon | None = None
        try:
            self._connect()
            self._serve()
        except BaseException:
            self.stop()
            raise

    def _connect(self) -> None:
        names = ["127.0.0.1 localhost", *(f"{address} host-{name}" for address, name in zip(self.addresses, "ab"))]
        (self.folder / "hosts").write_text("\n".join(names) + "\n")
        one, two = self.spaces
        for space in self.spaces:
            run("ip", "netns", "add", space)
        run("ip", "-n", one, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", two)
        for space, address in zip(self.spaces, self.addresses):
            run("ip", "-n", space, "link", "set", "lo", "up")
            run("ip", "-n", space, "address", "add", f"{address}/24", "dev", "cable")
            run("ip", "-n", space, "link", "set", "cable", "up")

    def limit(self, rate: str) -> None:
        """Lets each direction of the cable carry `rate` at most, in tc's notation (`1gbit`)."""
        for space in self.spaces:
            limits = ["rate", rate, "burst", "256kb", "latency", "50ms"]
            run("tc", "-n", space, "qdisc", "replace", "dev", "cable", "root", "tbf", *limits)

    def _serve(self) -> None:
        for name in ("host_key", "user_key"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name))
        public = (self.folder / "host_key.pub").read_text()
        (self.folder / "known_hosts").write_text(f"{self.addresses[1]} {public}")
        (self.folder / "ssh_config").write_text(SSH_CONFIG.format(folder=self.folder))
        # launchers call `ssh HOST`, which has its settings in the user's home: that is not ours to write to
        wrapper = self.folder / "bin" / "ssh"
        wrapper.parent.mkdir()
        wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {self.folder}/ssh_config "$@"\n')
        wrapper.chmod(0o755)
        config = self.folder / "sshd_config"
        config.write_text(SSHD_CONFIG.format(folder=self.folder, address=self.addresses[1]))
        Path("/run/sshd").mkdir(exist_ok=True)
        sshd = find_sshd()
        assert sshd is not None
        self.daemon = Daemon(self.inside(1, sshd, "-D", "-e", "-f", str(config)), self.folder / "sshd.log")
        log = self.folder / "sshd.log"
        wait_for(lambda: "Server listening" in log.read_text(), 10, "listening sshd", explain=self.daemon.tail)

    def inside(self, number: int, *command: str) -> list[str]:
        """The command line that runs `command` on one of the hosts."""
        named = f'hostname host-{"ab"[number]}; mount --bind {self.folder}/hosts /etc/hosts; exec "$@"'
        space = ["ip", "netns", "exec", self.spaces[number]]
        return [
            *space,
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--uts",
            "sh",
            "-c",
            named,
            "sh",
            *command,
        ]

    def python(self, script: str, timeout: float = 120) -> str:
        """Runs a Python script on the first host, in `folder`; its output, an error if it fails."""
        env = {**os.environ, "PATH": f"{self.folder}/bin{os.pathsep}{os.environ['PATH']}"}
        command = self.inside(0, sys.executable, "-c", script)
        done = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\nsshd: {self.daemon and self.daemon.tail()}"
        return done.stdout

    def ranks(self, launcher: str, code: str, sync_path: str, seconds: float = 120) -> list[Any]:
        """One rank on each host runs `code`, which begins by `join()` and ends by `give()`; what each gave."""
        folder = self.folder / f"ranks-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        (folder / "script.py").write_text(code)
        env = {FOLDER: str(folder), SYNC_PATH: sync_path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        one, two = self.addresses
        driver = START_RANKS.format(folder=str(folder), env=env, one=one, two=two, launcher=launcher, seconds=seconds)
        self.python(driver, timeout=seconds + 60)
        return [load(folder, rank) for rank in range(2)]

    def stop(self) -> None:
        if self.daemon is not None:
            self.daemon.stop(signal.SIGKILL)  # unshare, which leads it, is deaf to TERM
        for space in self.spaces:
            subprocess.run(["ip", "netns", "delete", space], capture_output=True)


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
