"""`studies/NAME/`: what a study leaves on disk, the lock that keeps a second driver out, and whose directory it is."""

from __future__ import annotations

import fcntl
import os
import socket
import uuid
from pathlib import Path
from typing import Any

from harness.errors import BadInput
from harness.files import read_json, write_json
from search.study.storage import sqlite_url, without_password
from search.trial_dir import trial_path

STUDIES = Path(os.environ.get("HARNESS_STUDIES") or "studies")
"""The folder that studies lie in, of every command: HARNESS_STUDIES, else `studies` where one types."""
OWN = "study.db"
"""How the storage of a study is noted that has its database in its own directory, wherever that lies."""


class StudyDir:
    """The directory of the study of this name. Nothing in it says where it lies: it may be moved, renamed, copied."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = (STUDIES / name).absolute()
        self.copied = False
        """Whether it is a copy of one that is still there: what ran in that one is not this one's to watch or to end.
        Known once it `belongs_to` a study."""
        self._lock: int | None = None

    @property
    def study(self) -> str:
        """What the study is called in its storage: the directory may have been renamed since."""
        noted = self.noted().get("name")
        return noted if isinstance(noted, str) and self.has_own_database else self.name

    @property
    def has_own_database(self) -> bool:
        """Whether the study is kept in this directory, as far as is known."""
        noted = self.noted().get("storage")
        if noted is None:
            return True
        # an older note has the whole path, perhaps of where the directory was then
        return noted == OWN or str(noted).startswith("sqlite:") and str(noted).endswith(f"/studies/{self.named}/{OWN}")

    @property
    def named(self) -> str:
        return str(self.noted().get("name", self.name))

    @property
    def database(self) -> str:
        """The URL of the storage that a study has unless it names another."""
        return sqlite_url(self.path / OWN)

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

    @property
    def locked(self) -> bool:
        """Whether a process holds it now, as far as its file system knows."""
        try:
            descriptor = os.open(self.path / ".lock", os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return False
        finally:
            os.close(descriptor)
        return False

    def belongs_to(self, identity: str, storage: str) -> None:
        """Notes whose directory this is; `BadInput` where it holds the trials of another study of the same name."""
        noted = self.noted()
        was_at = Path(str(noted.get("place", self.path)))
        self.copied = was_at != self.path and self._same_directory(was_at, noted)
        if noted.get("id") not in (None, identity) or not noted and self.trial(0).exists():
            raise self._of_another()
        own = storage == without_password(self.database)
        write_json(
            self.path / "study.json",
            {
                "id": identity,
                "name": noted.get("name", self.name) if own else self.name,
                "storage": OWN if own else storage,
                "directory": noted.get("directory", uuid.uuid4().hex) if not self.copied else uuid.uuid4().hex,
                "place": str(self.path),
            },
        )

    def _same_directory(self, other: Path, noted: dict[str, Any]) -> bool:
        """Whether `other` is there and is the one that this was copied from."""
        theirs = read_json(other / "study.json")
        return isinstance(theirs, dict) and theirs.get("directory") == noted.get("directory")

    def check_storage(self, storage: str) -> None:
        """`BadInput` where the trials in this directory are kept in another storage than `storage`, before one is
        made there."""
        if not self.has_own_database and without_password(self.database) == without_password(storage):
            raise self._of_another()

    def _of_another(self) -> BadInput:
        return BadInput(
            f"{self.path} holds trials of another study that was called {self.named} (its storage: "
            f"{self.noted().get('storage', 'unknown')}): give --storage, move it away, or choose another study.name"
        )

    def request_stop(self, trial: int | None = None) -> None:
        """Asks the driver that has this directory to end one trial, or to stop."""
        write_json(self._request(trial), {"stop": True})

    def stop_request(self, trial: int | None = None) -> bool:
        return read_json(self._request(trial)) is not None  # opened: NFS remembers what stat says

    def clear_requests(self) -> None:
        """Forgets what was asked of a driver before this one."""
        for path in (self._request(None), *self.path.glob("trial-*/stop.json")):
            path.unlink(missing_ok=True)

    def _request(self, trial: int | None) -> Path:
        return (self.path if trial is None else self.trial(trial)) / "stop.json"

    @property
    def identity(self) -> str:
        """Of this directory, wherever it lies: another one on the same storage has another."""
        return str(self.noted().get("directory", ""))

    def noted(self) -> dict[str, Any]:
        noted = read_json(self.path / "study.json")
        return noted if isinstance(noted, dict) else {}
