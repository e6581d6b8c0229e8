"""A fork server for the commands and ranks that tests start: each is a fresh process without its seconds of imports.

`python -m harness …`, `python -m search …`, scripts and horovodrun become clients of the server
(`client/sitecustomize.py`), under whatever launcher starts them; all else, and what a test marked `fresh_start`
starts, is started as ever.
`HARNESS_TESTS_FRESH=1 pytest …` starts everything as ever.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.forkserver.client.sitecustomize import ADDRESS, PADDING, THREADS

ROOT = Path(__file__).resolve().parents[2]
CLIENT = Path(__file__).with_name("client")


class ForkServer:
    """The server of a session of tests; its address is in the environment of whatever they start."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="harness-tests-"))
        address = self.folder / "server"
        starting = address.with_name(address.name + ".starting")
        starting.touch()
        inherited = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CLIENT), str(ROOT), inherited]))
        room = {f"{PADDING}_{number}": "x" * 100_000 for number in range(2)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.forkserver.server", str(address), str(os.getpid()), "x" * 20_000],
            env={**os.environ, **THREADS, **room},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
        )
        os.environ[ADDRESS] = str(address)

    def close(self) -> str:
        """What it did, in a line."""
        self.process.terminate()
        self.process.wait()
        told = self.folder / "server.told"
        line = f"fork server: {told.read_text() if told.exists() else 'it did not begin'}"
        del os.environ[ADDRESS]
        shutil.rmtree(self.folder, ignore_errors=True)
        return line
