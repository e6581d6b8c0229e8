"""One run at a time in a directory: the lock goes with the process that holds it, however that ends."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from harness.errors import BadInput

NAME = ".lock"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""How a file system says that it has none: Lustre mounted without `-o flock`, NFS without its lock daemon."""


class DirectoryLock:
    """Held from `acquire` until `release` or the end of this process. Taken by rank 0 alone."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME
        self.descriptor: int | None = None
        self.notice: str | None = None
        """What the user should know of it."""

    def acquire(self) -> None:
        """BadInput where another process holds it, on this host or, where the file system tells, on another."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise BadInput(
                f"{self.path.parent} is in use by a run that goes on: wait for it, stop it, or choose another --output"
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(descriptor)
                raise
            what = f"{self.path.parent} lies in a file system without locks ({error.strerror})"
            self.notice = f"{what}: nothing keeps a second run out of it"
        self.descriptor = descriptor

    def release(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def check_free(directory: Path) -> None:
    """BadInput where a run goes on in `directory`; takes nothing."""
    if (directory / NAME).exists():
        lock = DirectoryLock(directory)
        lock.acquire()
        lock.release()
