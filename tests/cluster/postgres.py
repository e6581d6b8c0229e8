"""A real PostgreSQL in a folder of its own, on 127.0.0.1 and a unix socket."""

from __future__ import annotations

import os
import pwd
import re
import signal
import subprocess
from pathlib import Path

from tests.cluster.daemons import Daemon, free_ports
from tests.conftest import wait_for

INSTALLED = Path("/usr/lib/postgresql")  # Debian's: one folder per major version


def find_binaries() -> Path | None:
    """The folder of the newest installed PostgreSQL's programs."""
    found = [server.parent for server in INSTALLED.glob("*/bin/postgres")]
    return max(found, key=lambda folder: float(folder.parent.name), default=None)


def unprivileged_user() -> str | None:
    """PostgreSQL refuses to run as root; any other user is fine as it is (None)."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


class PostgresServer:
    """Starts the server with its data in `folder`, which is given to the user that it runs as."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self.folder, self.binaries, self.user = folder, binaries, unprivileged_user()
        if self.user is not None:
            os.chown(folder, pwd.getpwnam(self.user).pw_uid, -1)
        (self.port,) = free_ports(1)
        data = str(folder / "data")
        self._run("initdb", "-D", data, "-U", "search", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
        settings = [f"port={self.port}", "listen_addresses=127.0.0.1", "fsync=off", "max_connections=50"]
        options = [word for setting in settings for word in ("-c", setting)]
        command = [str(binaries / "postgres"), "-D", data, "-k", str(folder), *options]
        self.daemon = Daemon(command, folder / "postgres.out", user=self.user)
        try:
            wait_for(self._ready, 30, "PostgreSQL that answers", explain=self.daemon.tail)
        except BaseException:
            self.stop()
            raise

    def _ready(self) -> bool:
        assert self.daemon.alive(), self.daemon.tail()
        probe = [str(self.binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(probe).returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.binaries / program), *arguments]
        done = subprocess.run(command, user=self.user, cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"

    def create_database(self, name: str) -> str:
        """A new empty database; returns its URL as users write it."""
        name = re.sub(r"\W+", "_", name.lower())[:60]
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "search", name)
        return f"postgresql://search@127.0.0.1:{self.port}/{name}"

    def stop(self) -> None:
        self.daemon.stop(signal.SIGINT)  # "fast shutdown": TERM would wait until the last client leaves
