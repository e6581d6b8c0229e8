"""A client of `harness serve`: numpy and a socket.

with Client("127.0.0.1:7850") as policy:
    action = policy(observation)
"""

from __future__ import annotations

import json
import socket
from typing import Any

import numpy as np

from harness.policy.protocol import ABOUT, ACT, MAGIC, NOISE, OK, PORT, REPLY, STATUSES, request


class Refused(Exception):
    """The server has answered a request by a status other than OK."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(f"{STATUSES[status] if status < len(STATUSES) else status}: {line}")
        self.status = status


class Client:
    """One connection; not for several threads at once. A connection that was lost is made again, once a request: what a
    policy answers does not depend on whether it was asked before."""

    def __init__(self, address: str = f"127.0.0.1:{PORT}", timeout: float = 10.0) -> None:
        """`timeout`: seconds for a connection, and for each part of an answer. Raises OSError where nobody serves."""
        host, _, port = address.rpartition(":")
        self.address, self.timeout = (host or "127.0.0.1", int(port)), timeout
        self.socket: socket.socket | None = None
        self.number = self.version = 0
        """Of requests; and of the policy that gave the last answer."""
        self.about: dict[str, Any] = json.loads(self.ask(ABOUT, 0, 0, None, b""))
        """What the server says of its policy: `card`, as beside the file, and `action_shape`, `action_dtype`,
        `max_batch`."""
        card = self.about["card"]
        self.shape, self.dtype = tuple(card["observations"]["shape"]), np.dtype(card["observations"]["dtype"])
        self.action_shape, self.action_dtype = tuple(self.about["action_shape"]), np.dtype(self.about["action_dtype"])
        self.noise = card["noise"]
        self.generator = np.random.default_rng()

    def __call__(
        self, observations: np.ndarray, deterministic: bool = True, deadline: float | None = None
    ) -> np.ndarray:
        """Observations (n, *obs_shape), or a single one (*obs_shape), to actions as the environment takes them."""
        seen = np.asarray(observations)
        single = seen.shape == self.shape
        batch = seen[None] if single else seen
        noise = None
        if not deterministic and self.noise is not None:
            shape = len(batch), *self.noise["shape"]
            draw = self.generator.random if self.noise["kind"] == "uniform" else self.generator.standard_normal
            noise = draw(shape, dtype=np.float32)
        actions = self.act(batch, noise, deadline)
        return actions[0] if single else actions

    def act(
        self, observations: np.ndarray, noise: np.ndarray | None = None, deadline: float | None = None
    ) -> np.ndarray:
        """Actions for observations (n, *obs_shape), drawn by `noise` (n, *noise_shape) where it is given. `deadline`:
        seconds after which Refused (expired) is as good. Raises Refused, and OSError where the server is gone."""
        if observations.shape[1:] != self.shape:
            raise ValueError(f"observations must be of shape (n, *{self.shape}), got {observations.shape}")
        payload = np.ascontiguousarray(observations, self.dtype).tobytes()
        if noise is not None:
            payload += np.ascontiguousarray(noise, np.float32).tobytes()
        answer = self.ask(ACT, NOISE if noise is not None else 0, len(observations), deadline, payload)
        return np.frombuffer(answer, self.action_dtype).reshape(len(observations), *self.action_shape)

    def ask(self, kind: int, flags: int, count: int, deadline: float | None, payload: bytes) -> bytes:
        self.number += 1
        message = request(kind, flags, count, self.number, deadline, payload)
        again = self.socket is not None
        try:
            return self.exchange(message)
        except ConnectionError:
            self.close()
            if not again:
                raise
            return self.exchange(message)

    def exchange(self, message: bytes) -> bytes:
        if self.socket is None:
            self.socket = socket.create_connection(self.address, self.timeout)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.socket.sendall(message)
            magic, status, _, _, _, version, length = REPLY.unpack(self.receive(REPLY.size))
            if magic != MAGIC:
                raise ConnectionError("what answers there is no `harness serve`")
            answer = self.receive(length)
        except TimeoutError:
            self.close()  # the answer may come later, and would be taken for that of the next request
            raise
        if status != OK:
            raise Refused(status, answer.decode(errors="replace"))
        self.version = version
        return answer

    def receive(self, size: int) -> bytes:
        assert self.socket is not None
        found = self.socket.recv(size) if size else b""
        while len(found) < size:
            more = self.socket.recv(size - len(found))
            if not more:
                raise ConnectionResetError("the server has closed the connection")
            found += more
        return found

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
