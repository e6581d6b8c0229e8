"""`harness serve`: many clients, one policy; what one of them does costs the others nothing."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from harness import export
from harness.policy.client import Client, Refused
from harness.policy.onnx_policy import OnnxPolicy
from harness.policy.protocol import ACT, BAD_REQUEST, BUSY, EXPIRED, MAGIC, REPLY, REQUEST, TOO_LARGE, request
from harness.policy.serving.connection import Connection, Limits
from harness.policy.serving.counts import Counts
from harness.policy.serving.worker import Worker, served
from tests.command import harness
from tests.conftest import wait_for
from tests.harness.policy.runs import short_run
from tests.harness.policy.server import Serving

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
STATES = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two policies for CartPole-v1."""
    folder = tmp_path_factory.mktemp("serve")
    runs = [short_run(folder / f"run-{seed}", "ppo-cartpole", f"seed={seed}") for seed in (0, 1)]
    first, second = (export(run, output=folder / f"{at}.onnx", states=50).path for at, run in enumerate(runs))
    return first, second


@pytest.fixture(scope="module")
def server(files: tuple[Path, Path]) -> Serving:  # type: ignore[misc]
    with Serving(files[0], patience=1.0) as serving:
        yield serving  # type: ignore[misc]


class Regular(threading.Thread):
    """A client that asks all the time, and remembers what went wrong and how long it took."""

    def __init__(self, server: Serving, expected: OnnxPolicy) -> None:
        super().__init__(daemon=True)
        self.server, self.right = server, expected.act(STATES)
        self.over, self.slowest, self.answers = threading.Event(), 0.0, 0
        self.problems: list[str] = []
        self.versions: set[int] = set()

    def run(self) -> None:
        with self.server.client() as client:
            while not self.over.is_set():
                begun = time.perf_counter()
                try:
                    found = client.act(STATES)
                    if client.version == 1 and (found != self.right).any():
                        self.problems.append("other actions")
                    client.act(STATES[:1])
                except Exception as error:
                    self.problems.append(repr(error))
                self.versions.add(client.version)
                self.slowest = max(self.slowest, time.perf_counter() - begun)
                self.answers += 1

    def __enter__(self) -> Regular:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join(20)


def answer_of(connection: socket.socket) -> tuple[int, bytes]:
    """The status and the bytes of the next reply."""
    head = b""
    while len(head) < REPLY.size:
        head += connection.recv(REPLY.size - len(head)) or pytest.fail("closed")
    _, status, _, _, _, _, length = REPLY.unpack(head)
    body = b""
    while len(body) < length:
        body += connection.recv(length - len(body))
    return status, body


def connect(server: Serving) -> socket.socket:
    host, _, port = server.address.partition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def test_answers_are_those_of_the_file_alone_in_batches_and_drawn(server: Serving, files: tuple[Path, Path]) -> None:
    file = OnnxPolicy(files[0])
    noise = np.random.default_rng(1).random((64, 1), dtype=np.float32)

    with server.client() as client:
        assert (client.act(STATES) == file.act(STATES)).all()
        assert (client.act(STATES, noise) == file.act(STATES, noise)).all()
        assert client(STATES[0]) == file(STATES[0]) and client(STATES[0], deterministic=False) in (0, 1)
        assert client.version == 1 and client.about["card"]["preset"] == "ppo-cartpole"


def test_requests_that_wait_together_are_one_batch(server: Serving) -> None:
    refused = server.metric("refused_total")
    with connect(server) as connection:
        connection.sendall(REQUEST.pack(MAGIC, 9, 0, 0, 1, 0, 0))
    wait_for(lambda: server.metric("refused_total") > refused, 5, "count of all that came before")
    before = server.metric("batches_total"), server.metric("requests_total")
    message = request(ACT, 0, 1, 7, None, STATES[:1].tobytes())

    with connect(server) as connection:
        connection.sendall(message * 50)
        answers = [answer_of(connection) for _ in range(50)]

    assert all(status == 0 for status, _ in answers)
    wait_for(lambda: server.metric("requests_total") >= before[1] + 50, 5, "count of requests")
    assert server.metric("batches_total") - before[0] < 25


def test_malformed_requests_are_refused_and_cost_nobody_else(server: Serving, files: tuple[Path, Path]) -> None:
    chance = random.Random(0)
    wrong = [
        (REQUEST.pack(MAGIC, ACT, 0, 1, 1, 0, 15) + bytes(15), BAD_REQUEST),
        (REQUEST.pack(MAGIC, ACT, 0, 0, 1, 0, 0), BAD_REQUEST),
        (REQUEST.pack(MAGIC, ACT, 4, 1, 1, 0, 16) + bytes(16), BAD_REQUEST),
        (REQUEST.pack(MAGIC, 9, 0, 0, 1, 0, 0), BAD_REQUEST),
        (REQUEST.pack(MAGIC, ACT, 0, 1, 1, 0, 2**32 - 1), TOO_LARGE),
        (b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", BAD_REQUEST),
    ]

    with Regular(server, OnnxPolicy(files[0])) as regular:
        for message, expected in wrong:
            with connect(server) as connection:
                connection.sendall(message)
                assert answer_of(connection)[0] == expected
        for _ in range(500):
            with connect(server) as connection:
                connection.sendall(chance.randbytes(chance.randrange(1, 200)))
        wait_for(lambda: regular.answers > 10, 10, "answers to who asks rightly")

    assert not regular.problems
    assert server.health()["status"] == "ok" and server.metric("worker_restarts_total") == 0


def test_after_a_malformed_request_a_connection_goes_on(server: Serving) -> None:
    with connect(server) as connection:
        connection.sendall(REQUEST.pack(MAGIC, ACT, 0, 2, 1, 0, 16) + bytes(16))
        status, line = answer_of(connection)
        connection.sendall(request(ACT, 0, 1, 2, None, STATES[:1].tobytes()))

        assert (status, line) == (BAD_REQUEST, b"2 observations have 32 bytes, got 16")
        assert answer_of(connection)[0] == 0


def test_who_is_slow_or_never_reads_is_ended_and_costs_nobody_else(server: Serving, files: tuple[Path, Path]) -> None:
    before = server.metric("slow_connections_total")
    many = request(ACT, 0, 64, 1, None, STATES.tobytes())

    def ended() -> str:
        return f"{server.metric('slow_connections_total') - before} ended of 101, {server.health()}"

    with Regular(server, OnnxPolicy(files[0])) as regular:
        slow = [connect(server) for _ in range(100)]
        for connection in slow[:50]:
            connection.sendall(b"HP")
        deaf = connect(server)
        deaf.settimeout(0.5)
        with pytest.raises((TimeoutError, OSError)):
            while True:
                deaf.sendall(many * 20)
        wait_for(lambda: server.metric("slow_connections_total") >= before + 101, 5, "end of slow clients", ended)
        for connection in [*slow, deaf]:
            connection.close()

    assert not regular.problems and regular.answers > 10


def test_a_worker_that_is_killed_is_replaced(files: tuple[Path, Path]) -> None:
    with Serving(files[0], workers=2) as server:
        clients = [server.client() for _ in range(4)]
        for client in clients:
            client.act(STATES)
        os.kill(server.workers()[0], signal.SIGKILL)

        for client in clients:  # those that were connected to it connect again
            assert client.act(STATES).shape == (64,)
        wait_for(lambda: server.health()["workers"] == 2, 10, "new worker")
        assert server.metric("worker_restarts_total") == 1
        assert server.said(r"worker \d ended \(SIGKILL\)")


def test_a_policy_is_swapped_under_load_and_a_broken_one_is_not(files: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "policy.onnx"
    path.write_bytes(files[0].read_bytes())
    with Serving(path) as server, Regular(server, OnnxPolicy(files[0])) as regular:
        wait_for(lambda: regular.answers > 5, 5, "answers")
        path.write_bytes(b"no model")
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: server.said("version 1 stays: .* is no model"), 10, "refusal")
        path.write_bytes(files[1].read_bytes())
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: 2 in regular.versions, 10, "new version")

        assert not regular.problems and regular.versions == {1, 2}
        with server.client() as client:
            assert (client.act(STATES) == OnnxPolicy(files[1]).act(STATES)).all()
        assert server.health()["version"] == 2


def test_a_server_that_is_ended_answers_what_has_arrived(files: tuple[Path, Path]) -> None:
    with Serving(files[0]) as server:
        connections = [connect(server) for _ in range(5)]
        for connection in connections:
            connection.sendall(request(ACT, 0, 1, 1, None, STATES[:1].tobytes()))
            assert answer_of(connection)[0] == 0
        os.kill(server.workers()[0], signal.SIGSTOP)
        for connection in connections:
            connection.sendall(request(ACT, 0, 64, 2, None, STATES.tobytes()))
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        os.kill(server.workers()[0], signal.SIGCONT)

        assert [answer_of(connection)[0] for connection in connections] == [0] * 5
        assert server.process.wait(20) == 0


def test_what_nobody_waits_for_is_not_decided(files: tuple[Path, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname())
        theirs, _ = listening.accept()
    parent, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    worker = Worker(parent, Limits(), None)
    worker.served = served(files[0].read_bytes(), 1, worker.limits)
    now = time.monotonic()
    connection = Connection(theirs, worker.limits, Counts(), now)
    ours.sendall(b"".join(request(ACT, 0, 1, at, late, STATES[:1].tobytes()) for at, late in enumerate((None, 0.5))))
    connection.read(now)

    for each in connection.requests(worker.served, now):
        worker.decide([each], now - 1.0)
    connection.flush(now)

    assert [answer_of(ours)[0] for _ in range(2)] == [0, EXPIRED]


def test_connections_beyond_the_limit_are_refused(files: tuple[Path, Path]) -> None:
    with Serving(files[0], connections=2) as server:
        with server.client(), server.client(), connect(server) as third:
            assert answer_of(third)[0] == BUSY
        wait_for(lambda: server.health()["connections"] == 0, 5, "end of connections")
        with server.client() as client:
            assert client.act(STATES).shape == (64,)
    with pytest.raises(OSError):
        Client(server.address)


def test_a_refusal_is_an_error_of_the_client(server: Serving) -> None:
    with server.client() as client:
        with pytest.raises(Refused, match="count must be 1 to 1024, got 1025") as refused:
            client.act(np.zeros((1025, 4), np.float32))
        assert refused.value.status == BAD_REQUEST
        assert client.act(STATES).shape == (64,)


def test_bad_input_is_a_line_and_2(files: tuple[Path, Path], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for command, line in (
            ([str(files[0]), "--port", port], "cannot be listened on: Address already in use"),
            ([str(tmp_path)], "is no run's directory"),
            ([str(files[0]), "--workers", "0"], "--workers must be 1 to 1024, got 0"),
            ([str(files[0]), "--gpus", "0"], "--gpus needs onnxruntime-gpu"),
        ):
            ran = harness("serve", *command, cwd=tmp_path)
            assert ran.code == 2 and line in ran.err and len(ran.err.splitlines()) == 1, (command, ran)
