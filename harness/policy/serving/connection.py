"""A connection of a worker: bytes that came to requests, and answers to bytes that go."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.policy.protocol import (
    ABOUT,
    ACT,
    BAD_REQUEST,
    BUSY,
    MAGIC,
    NOISE,
    REQUEST,
    TOO_LARGE,
    refusal,
)
from harness.policy.serving.counts import Counts

if TYPE_CHECKING:
    from harness.policy.serving.worker import Served

READ = 2**16
"""Bytes that a turn reads of a connection."""
REQUESTS = 64
"""That a turn takes of a connection."""
UNREAD = 2**18
"""Bytes of answers that a client may leave unread before it is not read from either."""


@dataclass(frozen=True)
class Limits:
    batch: int = 1024
    """Observations of a request, and of a batch."""
    patience: float = 10.0
    """Seconds in which a request must be whole once it has begun, the first one must begin, and answers be read."""
    idle: float = 600.0
    """Seconds without a request after which a connection is closed."""


@dataclass(slots=True)
class Request:
    connection: Connection
    kind: int
    noise: bool
    count: int
    number: int
    deadline: float
    """Seconds from its arrival; 0 for none."""
    observations: bytes
    drawn: bytes


class Connection:
    def __init__(self, accepted: socket.socket, limits: Limits, counts: Counts, now: float) -> None:
        self.socket, self.fd, self.limits, self.counts = accepted, accepted.fileno(), limits, counts
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.inbox, self.outbox = bytearray(), bytearray()
        self.begun: float | None = now
        """When the request began that is not whole yet; a connection begins with one."""
        self.active = self.sent = now
        self.over = self.last = self.left = False
        """Whether it is to be closed; whether it is once its answers are sent; whether there may be whole requests."""
        self.watched = 1

    @property
    def stuck(self) -> bool:
        return len(self.outbox) > UNREAD or self.last

    def read(self, now: float) -> None:
        if self.left:  # there are whole requests to take first
            return
        try:
            found = self.socket.recv(READ)
        except BlockingIOError:
            return
        except OSError:
            found = b""
        if not found:
            self.over = True
            return
        self.inbox += found
        self.active = now
        if self.begun is None:
            self.begun = now

    def requests(self, served: Served | None, now: float) -> list[Request]:
        """The next whole ones. What is wrong is answered here."""
        found: list[Request] = []
        inbox, at, self.left = self.inbox, 0, False
        while not self.stuck and not self.over and len(inbox) - at >= REQUEST.size:
            if len(found) == REQUESTS:
                self.left = True
                break
            magic, kind, flags, count, number, deadline, length = REQUEST.unpack_from(inbox, at)
            if magic != MAGIC:
                self.refuse(BAD_REQUEST, 0, "this is no request: its header does not begin with HP", last=True)
                break
            if served is None:
                self.refuse(BUSY, number, "no policy is loaded yet", last=True)
                break
            card = served.policy.card
            each = _bytes(card.shape, card.dtype.itemsize)
            noise = 0 if card.noise is None else _bytes(tuple(card.noise["shape"]), 4)
            if length > self.limits.batch * (each + noise):
                self.refuse(TOO_LARGE, number, f"a request has at most {self.limits.batch} observations", last=True)
                break
            if len(inbox) - at - REQUEST.size < length:
                break
            begin = at + REQUEST.size
            at = begin + length
            drawn = bool(flags & NOISE)
            line = None
            if kind == ACT:
                line = problem(count, length, each, noise if drawn else 0, flags, self.limits.batch, bool(noise))
            elif kind != ABOUT or length or flags:
                line = "kind must be 1 (act) or 2 (about, without bytes)"
            if line is not None:
                self.refuse(BAD_REQUEST, number, line)
                continue
            middle = begin + count * each if kind == ACT else begin
            observations, random = bytes(inbox[begin:middle]), bytes(inbox[middle:at])
            found.append(Request(self, kind, drawn, count, number, deadline * 1e-6, observations, random))
        if at:
            del inbox[:at]
            self.begun = now if inbox else None
        return found

    def refuse(self, status: int, number: int, line: str, last: bool = False) -> None:
        self.send(refusal(status, number, line))
        self.counts.refused[status] += 1
        if last:
            self.last = True
            self.inbox.clear()

    def send(self, answer: bytes) -> None:
        """Goes out with the next `flush`."""
        self.outbox += answer

    def flush(self, now: float) -> None:
        if self.outbox and not self.over:
            try:
                sent = self.socket.send(self.outbox)
            except BlockingIOError:
                return
            except OSError:
                self.over = True
                return
            del self.outbox[:sent]
            self.sent = now
        if self.last and not self.outbox:
            self.over = True

    def too_slow(self, now: float) -> bool:
        limits = self.limits
        if self.outbox:
            return now - max(self.sent, self.active) > limits.patience
        if self.begun is not None and not self.left:
            return now - self.begun > limits.patience
        return now - self.active > limits.idle


def _bytes(shape: tuple[int, ...], item: int) -> int:
    for size in shape:
        item *= size
    return item


def problem(count: int, length: int, each: int, noise: int, flags: int, most: int, draws: bool) -> str | None:
    """What is wrong with a request to act."""
    if not 1 <= count <= most:
        return f"count must be 1 to {most}, got {count}"
    if flags & ~NOISE:
        return f"flags must be 0 or 1 (with noise), got {flags}"
    if flags & NOISE and not draws:
        return "this policy draws nothing: it takes no noise"
    if length != count * (each + noise):
        return f"{count} observations have {count * (each + noise)} bytes, got {length}"
    return None
