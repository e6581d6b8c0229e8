"""A worker of `harness serve`: a process that answers the requests of the connections that its parent hands it.

One thread, one loop: whatever has arrived at all connections is read, decided in one batch, and answered; what arrives
meanwhile is the next batch. So nothing is ever waited for to fill a batch, and a batch is as large as the load makes
it. Of a connection a turn takes one read and a few requests, whose sizes have a limit: no queue grows without bounds,
and who sends much waits for itself. Who does not read its answers is not read from either.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.policy.onnx_policy import OnnxPolicy
from harness.policy.protocol import ABOUT, EXPIRED, FAILED, MAGIC, OK, REPLY, refusal
from harness.policy.serving.connection import Connection, Limits, Request
from harness.policy.serving.counts import Counts

REPORT_SECONDS = 0.25
"""Between two messages to the parent, and two looks for connections that are stuck."""
SOON_SECONDS = 0.02
"""Until the parent is told that connections have closed, in whose place it may hand over others."""
IN, OUT = select.EPOLLIN, select.EPOLLOUT


@dataclass(frozen=True)
class Served:
    """A policy and what is said of it."""

    policy: OnnxPolicy
    version: int
    about: bytes
    action_bytes: int


def served(model: bytes, version: int, limits: Limits, providers: list[Any] | None = None) -> Served:
    policy = OnnxPolicy(Path("policy.onnx"), model, providers)
    example = policy.act(np.zeros((1, *policy.card.shape), policy.card.dtype))[0]
    about = {
        "card": policy.card.as_json(),
        "action_shape": list(example.shape),
        "action_dtype": str(example.dtype),
        "max_batch": limits.batch,
    }
    return Served(policy, version, json.dumps(about).encode(), example.nbytes)


class Worker:
    def __init__(self, parent: socket.socket, limits: Limits, providers: list[Any] | None) -> None:
        self.parent, self.limits, self.providers = parent, limits, providers
        self.served: Served | None = None
        self.loaded: deque[Served | str] = deque()
        """What a thread has loaded, until the loop takes it; or what was wrong."""
        self.connections: dict[int, Connection] = {}
        self.ready: set[Connection] = set()
        """Those of which whole requests are left from the last turn."""
        self.poll, self.counts, self.draining = select.epoll(), Counts(), False
        self.poll.register(parent.fileno(), IN)

    def run(self) -> None:
        report = looked = time.monotonic()
        closed = 0
        while not self.draining:
            soon = closed != self.counts.closed
            events = self.poll.poll(0.0 if self.ready else SOON_SECONDS if soon else REPORT_SECONDS)
            now = time.monotonic()
            requests = self.read(events, now)
            if requests:
                self.answer(requests, now)
            if now >= report or self.loaded or soon and now >= looked + SOON_SECONDS:
                closed, looked, report = self.counts.closed, now, now + REPORT_SECONDS
                self.look_after(now)
        self.drain()

    # -- a turn --------------------------------------------------------------------------------------------------------

    def read(self, events: list[tuple[int, int]], now: float) -> list[Request]:
        """Whole requests, of each connection a few."""
        requests: list[Request] = []
        left, self.ready = self.ready, set()
        for fd, event in events:
            if fd == self.parent.fileno():
                self.listen(now)
                continue
            connection = self.connections.get(fd)
            if connection is None:
                continue
            if event & OUT:
                connection.flush(now)
            if event & ~OUT:
                connection.read(now)
            left.add(connection)
        for connection in left:
            found = connection.requests(self.served, now)
            requests += found
            if connection.left and not connection.stuck:
                self.ready.add(connection)
            self.settle(connection)
        return requests

    def answer(self, requests: list[Request], now: float) -> None:
        """Decides all, small ones first, in as few batches as the limit allows."""
        acts = []
        for each in requests:
            if each.kind == ABOUT:
                self.tell_about(each)
            else:
                acts.append(each)
        if len(acts) > 1:
            acts.sort(key=lambda each: (each.noise, each.count))
        first = 0
        while first < len(acts):
            last, total, noise = first, 0, acts[first].noise
            while last < len(acts) and acts[last].noise == noise:
                if last > first and total + acts[last].count > self.limits.batch:
                    break
                total, last = total + acts[last].count, last + 1
            self.decide(acts[first:last], now)
            first = last
        done = time.monotonic()
        for connection in {each.connection for each in requests}:
            connection.flush(done)
            self.settle(connection)
        self.counts.answered(len(requests), done - now)

    def tell_about(self, each: Request) -> None:
        assert self.served is not None
        about = self.served.about
        each.connection.send(REPLY.pack(MAGIC, OK, 0, 0, each.number, self.served.version, len(about)) + about)

    def decide(self, batch: list[Request], now: float) -> None:
        late = time.monotonic() - now
        if any(each.deadline and late > each.deadline for each in batch):
            for each in batch:
                if each.deadline and late > each.deadline:
                    self.refuse(each, EXPIRED, "the deadline has passed")
            batch = [each for each in batch if not each.deadline or late <= each.deadline]
            if not batch:
                return
        serving = self.served
        assert serving is not None
        card = serving.policy.card
        seen = batch[0].observations if len(batch) == 1 else b"".join([each.observations for each in batch])
        observations = np.frombuffer(seen, card.dtype).reshape(-1, *card.shape)
        drawn = None
        if batch[0].noise:
            assert card.noise is not None
            drawn = np.frombuffer(b"".join([each.drawn for each in batch]), np.float32)
            drawn = drawn.reshape(-1, *card.noise["shape"])
        try:
            actions = serving.policy.act(observations, drawn).tobytes()
        except Exception as error:  # of the runtime
            for each in batch:
                self.refuse(each, FAILED, " ".join(str(error).split()))
            return
        self.counts.batches += 1
        self.counts.actions += len(observations)
        at, size, version = 0, serving.action_bytes, serving.version
        for each in batch:
            length = each.count * size
            each.connection.send(
                REPLY.pack(MAGIC, OK, 0, each.count, each.number, version, length) + actions[at : at + length]
            )
            at += length

    def refuse(self, each: Request, status: int, line: str) -> None:
        each.connection.send(refusal(status, each.number, line))
        self.counts.refused[status] += 1

    # -- connections ---------------------------------------------------------------------------------------------------

    def add(self, fd: int, now: float) -> None:
        connection = Connection(socket.socket(fileno=fd), self.limits, self.counts, now)
        self.connections[fd] = connection
        self.poll.register(fd, IN)

    def settle(self, connection: Connection) -> None:
        """What the loop waits for at a connection; closes one that is over."""
        if connection.over:
            if self.connections.get(connection.fd) is connection:  # its number may be another one's by now
                del self.connections[connection.fd]
                self.ready.discard(connection)
                self.poll.unregister(connection.fd)
                connection.socket.close()
                self.counts.closed += 1
            return
        wanted = (0 if connection.stuck else IN) | (OUT if connection.outbox else 0)
        if wanted != connection.watched:
            connection.watched = wanted
            self.poll.modify(connection.fd, wanted)

    def look_after(self, now: float) -> None:
        """Ends connections that are stuck, takes over a policy that was loaded, and tells the parent."""
        for connection in list(self.connections.values()):
            if connection.too_slow(now):
                connection.over = True
                self.counts.slow += 1
                self.settle(connection)
        problem = None
        while self.loaded:
            found = self.loaded.popleft()
            if isinstance(found, str):
                problem = found
            else:
                self.served = found
        version = 0 if self.served is None else self.served.version
        self.tell({**self.counts.as_json(), "connections": len(self.connections), "version": version}, problem)

    # -- the parent ----------------------------------------------------------------------------------------------------

    def listen(self, now: float) -> None:
        try:
            message, fds, _, _ = socket.recv_fds(self.parent, 4096, 1)
        except BlockingIOError:
            return
        except OSError:
            message, fds = b"", []
        if not message:  # the parent is gone
            self.draining = True
            return
        order = json.loads(message)
        if "connection" in order:
            self.add(fds[0], now)
        elif "policy" in order:
            threading.Thread(target=self.load, args=(fds[0], order["policy"]), daemon=True).start()
        elif "drain" in order:
            self.draining = True

    def load(self, fd: int, version: int) -> None:
        """Beside the loop, which goes on with the policy that it has."""
        try:
            with os.fdopen(fd, "rb") as file:
                model = os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)
            self.loaded.append(served(model, version, self.limits, self.providers))
        except Exception as error:
            self.loaded.append(" ".join(str(error).split()))

    def tell(self, counts: dict[str, Any], problem: str | None) -> None:
        try:
            self.parent.send(json.dumps({**counts, "problem": problem}).encode())
        except BlockingIOError:  # it reads the next one
            pass
        except OSError:
            self.draining = True

    def drain(self) -> None:
        """Answers what has arrived, waits until the answers are sent, and closes everything."""
        now = time.monotonic()
        for connection in list(self.connections.values()):
            connection.read(now)
            while not connection.stuck and (found := connection.requests(self.served, now)):
                self.answer(found, now)
        until = now + self.limits.patience
        while time.monotonic() < until and any(each.outbox for each in self.connections.values()):
            for connection in list(self.connections.values()):
                connection.flush(time.monotonic())
                self.settle(connection)
            time.sleep(0.01)
        for connection in self.connections.values():
            connection.socket.close()
        self.look_after(time.monotonic())


def main() -> None:
    """`python -m harness.policy.serving.worker FD JSON`: the socket to the parent, and what it says."""
    setup = json.loads(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all: the parent decides
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if setup["core"] is not None:
        os.sched_setaffinity(0, {setup["core"]})
    parent = socket.socket(fileno=int(sys.argv[1]))
    parent.setblocking(False)
    providers = None
    if setup["gpu"] is not None:
        providers = [("CUDAExecutionProvider", {"device_id": setup["gpu"]}), "CPUExecutionProvider"]
    Worker(parent, Limits(**setup["limits"]), providers).run()


if __name__ == "__main__":
    main()
