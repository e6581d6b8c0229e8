"""What clients and servers of a policy say to each other over TCP: `docs/serving.md` has it in words.

A request and a reply are each a header of 24 bytes, little-endian, and `length` bytes. Arrays are raw, row by row, in
the dtypes that the reply to ABOUT tells; nothing is ever unpickled.
"""

from __future__ import annotations

import struct

MAGIC = 0x5048
"""`HP`"""
REQUEST = struct.Struct("<HBBIQII")
"""magic, kind, flags, count, id, deadline in microseconds (0: none), length"""
REPLY = struct.Struct("<HBBIQII")
"""magic, status, 0, count, id, version of the policy, length"""

ACT, ABOUT = 1, 2
"""Kinds of requests. ACT: `count` observations, then with the flag NOISE as many rows of noise; the reply has `count`
actions. ABOUT: no bytes; the reply has JSON."""
NOISE = 1

OK, BAD_REQUEST, TOO_LARGE, BUSY, EXPIRED, FAILED = range(6)
"""Statuses of replies; of all but OK the bytes are a line of text. After TOO_LARGE and BUSY, and after a header that is
none, the server closes the connection."""
STATUSES = ("ok", "bad_request", "too_large", "busy", "expired", "failed")

PORT = 7850


def request(kind: int, flags: int, count: int, number: int, deadline: float | None, payload: bytes) -> bytes:
    """`deadline`: seconds from its arrival after which nobody waits for the answer."""
    microseconds = 0 if deadline is None else min(max(int(deadline * 1e6), 1), 2**32 - 1)
    return REQUEST.pack(MAGIC, kind, flags, count, number, microseconds, len(payload)) + payload


def refusal(status: int, number: int, line: str) -> bytes:
    text = line.encode()[:1000]
    return REPLY.pack(MAGIC, status, 0, 0, number, 0, len(text)) + text
