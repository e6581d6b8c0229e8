"""To sleep until another process changes a number in memory that both share, and to wake who sleeps: futex(2)."""

from __future__ import annotations

import ctypes
import platform

SYSTEM_CALL = {"x86_64": 202}
WAIT, WAKE, ALL = 0, 1, 2**31 - 1


class Timeout(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]

    def __init__(self, nanoseconds: int) -> None:
        """Less than a second."""
        super().__init__(0, nanoseconds)


class Futex:
    """Of the 32-bit number at an address; on Linux."""

    def __init__(self) -> None:
        self.number = ctypes.c_long(SYSTEM_CALL[platform.machine()])
        self.call = ctypes.CDLL(None).syscall

    def wait(self, address: int, seen: int, timeout: Timeout) -> None:
        """Sleeps while the number is `seen`, at most as long as `timeout`; may return before."""
        self.call(
            self.number, ctypes.c_void_p(address), WAIT, ctypes.c_uint32(seen), ctypes.byref(timeout),
            None, 0,
        )  # fmt: skip

    def wake(self, address: int) -> None:
        """Wakes all who sleep there."""
        self.call(self.number, ctypes.c_void_p(address), WAKE, ALL, None, None, 0)
