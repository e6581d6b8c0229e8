"""Small files that others read while they are written: JSON renamed into place, and append-only lines of JSON."""

from __future__ import annotations

import json
import math
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: non-finite numbers become null, paths and tuples their plain forms."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and not hasattr(value, "__len__"):  # numpy and torch scalars
        return plain(value.item())
    return value


def write_text(path: Path, text: str) -> None:
    """Writes aside, syncs and renames: a reader sees the old file or the new one, never half of one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    aside.replace(path)


def sync_directory(directory: Path) -> None:
    """Waits until the names in it are on the disk: a file that is synced may be without one until then."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any | None:
    """The file's value; None where there is no file or it is not JSON. Opens it anew: NFS caches what stat says."""
    try:
        return json.loads(Path(path).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: no JSON, or no text
        return None


def names_in(directory: Path) -> list[str]:
    """What is in it now, as other hosts have made it too. NFS remembers a name that was not there, and a listing, for
    up to half a minute, unless this host itself changes the directory."""
    probe = directory / f".{os.getpid()}.look"
    with suppress(OSError):  # of a full disk: then it is as NFS remembers it
        probe.touch()
        probe.unlink()
    return os.listdir(directory)


def append_json_line(path: Path, value: Any) -> None:
    """Appends one line by one write, so that a reader never sees two lines mixed."""
    line = json.dumps(plain(value), allow_nan=False) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


class PatientFile:
    """What is written to it waits in memory until `flush` brings it to the end of the file; what a full disk does not
    take (OSError) goes on waiting, and is brought there by a later `flush`."""

    def __init__(self, path: Path) -> None:
        self._file, self._waiting, self._one_at_a_time = path.open("ab", buffering=0), bytearray(), threading.Lock()

    def write(self, data: bytes) -> None:
        with self._one_at_a_time:
            self._waiting += data

    def flush(self) -> None:
        with self._one_at_a_time:
            while self._waiting:
                del self._waiting[: self._file.write(self._waiting)]

    def sync(self) -> None:
        """Until all of it is on the disk."""
        self.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self._file.close()


def read_json_lines(path: Path, offset: int = 0) -> tuple[list[Any], int]:
    """The whole lines from byte `offset` on, and where to read on. A line counts once it ends in a newline."""
    try:
        with Path(path).open("rb") as lines:
            lines.seek(offset)
            data = lines.read()
    except FileNotFoundError:
        return [], offset
    end = data.rfind(b"\n") + 1
    records = []
    for line in data[:end].splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # a line that two writers broke counts for nothing; its neighbours do
    return records, offset + end
