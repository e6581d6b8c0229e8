"""`studies/NAME/`: what a study leaves on disk, the lock that keeps a second driver out, and whose directory it is."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import Any

from harness.errors import BadInput
from harness.files import read_json, write_json
from search.storage import sqlite_url
from search.trial_dir import trial_path

STUDIES = Path(os.environ.get("HARNESS_STUDIES") or "studies")
"""The folder that studies lie in, of every command: HARNESS_STUDIES, else `studies` where one types."""


class StudyDir:
    def __init__(self, name: str) -> None:
        self.name = name
        self.path = (STUDIES / name).absolute()
        self._lock: int | None = None

    @property
    def database(self) -> str:
        """The URL of the storage that a study has unless it names another."""
        return sqlite_url(self.path / "study.db")

    @property
    def confirm(self) -> Path:
        return self.path / "confirm"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def trial(self, number: int) -> Path:
        return trial_path(self.path, number)

    def lock(self) -> None:
        """Keeps this directory for this process until it ends, however it ends; `BadInput` where another has it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise BadInput(
                f"study {self.name} cannot be kept in {self.path}: {error.strerror}; HARNESS_STUDIES=/another/folder "
                "says where studies lie"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(descriptor, 200).decode().strip()
            os.close(descriptor)
            raise BadInput(f"study {self.name} is being run already, by {holder or 'another process'}") from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        self._lock = descriptor

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def belongs_to(self, identity: str, storage: str) -> None:
        """Notes whose directory this is; `BadInput` where it holds the trials of another study of the same name."""
        noted = self.noted()
        if noted.get("id") not in (None, identity) or not noted and self.trial(0).exists():
            raise BadInput(
                f"{self.path} holds trials of another study that was called {self.name} (its storage: "
                f"{noted.get('storage', 'unknown')}): move it away, or choose another study.name"
            )
        write_json(self.path / "study.json", {"id": identity, "name": self.name, "storage": storage})

    def noted(self) -> dict[str, Any]:
        noted = read_json(self.path / "study.json")
        return noted if isinstance(noted, dict) else {}
