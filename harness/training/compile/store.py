"""Compiled code on disk, found by a key of all that it depends on, shared by every process of one user.

An entry is a file and, written last, a JSON beside it with the file's SHA-256. What is truncated, was changed, or was
written for another key is removed and counts as missing. A folder that others can write to is not used at all: loading
code from it would be running theirs.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FOLDER = "HARNESS_CODE_CACHE"
"""The variable that names the folder; `~/.cache/rl-harness/code` where it is not set, nothing is kept where it is
empty."""
LEFT_SECONDS = 3600.0
"""Age at which a file that is not in its place yet is nobody's any more."""
LIMIT_BYTES = 512 * 2**20
"""The entries that were used last are kept, of so many bytes together."""


def default_folder() -> Path | None:
    chosen = os.environ.get(FOLDER)
    if chosen is not None:
        return Path(chosen) if chosen else None
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rl-harness" / "code"
    except RuntimeError:  # a user without a home
        return None


class CodeStore:
    """`get` and `put` of files by key; `folder` None keeps nothing. No method raises for a full or a read-only disk."""

    def __init__(self, folder: Path | None = None, limit: int = LIMIT_BYTES) -> None:
        self.folder, self.limit = folder, limit
        self.refused = ""
        """Why the folder is not used, if so."""
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            found = folder.stat()
        except OSError as error:
            self.folder, self.refused = None, f"{folder}: {error.strerror}"
            return
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            self.folder, self.refused = None, f"{folder} can be written to by others: no code is taken from there"

    def get(self, key: str, kind: str) -> Path | None:
        """The file of an entry whose checksum is right; None where there is none."""
        if self.folder is None:
            return None
        path = self.folder / f"{key}.{kind}"
        try:
            record = json.loads(path.with_name(path.name + ".json").read_text())
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except (OSError, ValueError):
            return None
        if not isinstance(record, dict) or record.get("sha256") != digest or record.get("key") != key:
            self._remove(path)
            return None
        with suppress(OSError):
            os.utime(path)  # used now
        return path

    def put(self, key: str, kind: str, content: bytes) -> Path | None:
        """Keeps an entry; whole or not at all, whoever else writes the same one."""
        if self.folder is None:
            return None
        path = self.folder / f"{key}.{kind}"
        record = json.dumps({"key": key, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)})
        try:
            self._write(path, content)
            self._write(path.with_name(path.name + ".json"), record.encode())
            self._keep_within_limit()
        except OSError:
            return None
        return path

    @contextmanager
    def alone(self, key: str, kind: str) -> Iterator[bool]:
        """Whether this process is the only one that makes an entry now; the lock goes with the process. Where the
        folder takes no locks nobody makes any, and `refused` says why."""
        if self.folder is None:
            yield False
            return
        try:
            lock = os.open(self.folder / f"{key}.{kind}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            self.refused = f"{self.folder}: {error.strerror}"
            yield False
            return
        try:
            alone = True
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                alone = False
            except OSError as error:
                alone, self.refused = False, f"{self.folder}: {error.strerror}"
            yield alone
        finally:
            os.close(lock)

    def entries(self) -> list[Path]:
        """The files of all entries, those used last first."""
        if self.folder is None:
            return []
        records = self.folder.glob("*.json")
        files = [path for record in records if (path := record.with_suffix("")).exists()]
        return sorted(files, key=lambda path: -path.stat().st_mtime)

    def _write(self, path: Path, content: bytes) -> None:
        handle, aside = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".new")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(aside, path)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise

    def _remove(self, path: Path) -> None:
        for each in (path.with_name(path.name + ".json"), path):
            with suppress(OSError):
                each.unlink()

    def _keep_within_limit(self) -> None:
        """Removes what was used longest ago; and what writers have left that were killed."""
        total = 0
        assert self.folder is not None
        for left in self.folder.glob(".*.new"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > LEFT_SECONDS:
                    left.unlink()
        for path in self.entries():
            total += path.stat().st_size
            if total > self.limit:
                self._remove(path)
