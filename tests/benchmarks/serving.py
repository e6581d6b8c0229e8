"""`harness serve` beside the same policy behind a FastAPI endpoint, and in a bare ONNX Runtime loop.

Clients are sockets of one process that each ask again once they are answered, so that servers and clients share the
machine's cores. FastAPI has one uvicorn process and JSON, as its documentation shows it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness import export
from harness.config import load_run_config
from harness.files import write_json
from harness.policy.onnx_policy import OnnxPolicy
from harness.policy.protocol import ACT, REPLY, request
from harness.run.train import train

ROOT = Path(__file__).resolve().parents[2]
OURS, FASTAPI, BARE = "harness serve", "FastAPI and ONNX Runtime", "ONNX Runtime in the process"
MEMBERS = 5


def policies(folder: Path) -> tuple[Path, Path]:
    """One for CartPole-v1 and an ensemble of five; what they have learned does not matter."""
    quick = ["run.steps=256", "evaluation.count=1", "evaluation.episodes=1", "evaluation.final_episodes=1"]
    runs = []
    for seed in range(MEMBERS):
        runs.append(folder / f"run-{seed}")
        settings = [*quick, f"seed={seed}", "compile.mode=off", "logging.tensorboard=false"]
        train(load_run_config("ppo-cartpole", settings), runs[-1])
    one = export(runs[0], output=folder / "one.onnx", states=100).path
    return one, export(runs, ensemble="mean", output=folder / "five.onnx", states=100).path


# -- servers -----------------------------------------------------------------------------------------------------------


@contextmanager
def started(command: list[str], ready: str, folder: Path) -> Iterator[int]:
    """The port that a server says it listens on."""
    output = folder / f"{os.urandom(4).hex()}.log"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with output.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, env=env)
    try:
        until = time.monotonic() + 60.0
        while (found := re.search(ready, output.read_text())) is None:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(output.read_text())
            time.sleep(0.05)
        yield int(found[1])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def ours(path: Path, folder: Path) -> Any:
    command = [sys.executable, "-m", "harness", "serve", str(path), "--port", "0"]
    return started(command, r"on 127\.0\.0\.1:(\d+)", folder)


def fastapi(path: Path, folder: Path) -> Any:
    return started(
        [sys.executable, "-m", "tests.benchmarks.serving", "--endpoint", str(path)], r":(\d+) \(Press", folder
    )


def endpoint(path: Path) -> None:
    """The peer: an endpoint that takes observations as JSON and gives actions as JSON."""
    import uvicorn
    from fastapi import FastAPI

    policy, app = OnnxPolicy(path), FastAPI()

    @app.post("/act")
    async def act(body: dict[str, list[list[float]]]) -> dict[str, list[int]]:
        return {"actions": policy.act(np.array(body["observations"], np.float32)).tolist()}

    uvicorn.run(app, host="127.0.0.1", port=0, access_log=False)


# -- clients -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    per_second: float
    """Actions."""
    p50: float
    p99: float
    """Microseconds of a request."""

    @property
    def told(self) -> str:
        return f"{self.per_second:,.0f} actions/s, p50 {self.p50:,.0f} us, p99 {self.p99:,.0f} us"


def binary(batch: int, size: int) -> tuple[bytes, Callable[[bytes], bool]]:
    """A request, and whether bytes are the whole of its answer."""
    observations = np.random.default_rng(0).normal(size=(batch, size)).astype(np.float32)
    whole = REPLY.size + 8 * batch
    return request(ACT, 0, batch, 1, None, observations.tobytes()), lambda found: len(found) >= whole


def http(batch: int, size: int) -> tuple[bytes, Callable[[bytes], bool]]:
    observations = np.random.default_rng(0).normal(size=(batch, size)).astype(np.float32)
    body = json.dumps({"observations": observations.tolist()}).encode()
    head = f"POST /act HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body, lambda found: found.endswith(b"]}")


def load(
    port: int, clients: int, batch: int, message: bytes, whole: Callable[[bytes], bool], seconds: float
) -> Figures:
    poll, sockets = select.epoll(), {}
    for _ in range(clients):
        connected = socket.create_connection(("127.0.0.1", port))
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(connected.fileno(), select.EPOLLIN)
        sockets[connected.fileno()] = connected
    took: list[float] = []
    found = dict.fromkeys(sockets, b"")
    begun = dict.fromkeys(sockets, time.perf_counter())
    for connected in sockets.values():
        connected.sendall(message)
    start = time.perf_counter() + 0.1 * seconds  # the first tenth is not counted
    end = start + seconds
    now = time.perf_counter()
    while now < end:
        for fd, _ in poll.poll(10.0):
            found[fd] += sockets[fd].recv(65536)
            if whole(found[fd]):
                now = time.perf_counter()
                if now >= start:
                    took.append(now - begun[fd])
                found[fd], begun[fd] = b"", now
                sockets[fd].sendall(message)
        now = time.perf_counter()
    for connected in sockets.values():
        connected.close()
    return figures(took, batch, seconds)


def bare(path: Path, batch: int, seconds: float) -> Figures:
    policy, took = OnnxPolicy(path), []
    observations = np.random.default_rng(0).normal(size=(batch, *policy.card.shape)).astype(np.float32)
    end = time.perf_counter() + seconds
    while (before := time.perf_counter()) < end:
        policy.act(observations)
        took.append(time.perf_counter() - before)
    return figures(took, batch, seconds)


def figures(took: list[float], batch: int, seconds: float) -> Figures:
    p50, p99 = (1e6 * float(each) for each in np.percentile(took, [50, 99]))
    return Figures(batch * len(took) / seconds, p50, p99)


# -- rows --------------------------------------------------------------------------------------------------------------


def measure(rounds: int, seconds: float) -> list[dict[str, Any]]:
    cases = {"one": (1, 1), "64": (64, 1), "batches": (1, 64)}
    found: dict[tuple[str, str], list[Figures]] = {}
    with tempfile.TemporaryDirectory() as name:
        one, five = policies(folder := Path(name))
        for _ in range(rounds):
            for key, (clients, batch) in cases.items():
                with ours(one, folder) as port:
                    found.setdefault((key, OURS), []).append(load(port, clients, batch, *binary(batch, 4), seconds))
                with fastapi(one, folder) as port:
                    found.setdefault((key, FASTAPI), []).append(load(port, clients, batch, *http(batch, 4), seconds))
                found.setdefault((key, BARE), []).append(bare(one, batch, seconds))
            for who, path in (("one policy", one), ("an ensemble of 5", five)):
                with ours(path, folder) as port:
                    found.setdefault(("ensemble", who), []).append(load(port, 1, 64, *binary(64, 4), seconds))
    return [
        row("one", "a", "One client, one observation a request", "us, p50", "p50", found, ({"at_most": 1.0},)),
        row("64", "b", "64 clients, one observation a request", "actions/s", "per_second", found, ({"at_least": 1.0},)),
        row("batches", "c", "One client, 64 observations a request", "actions/s", "per_second", found, ()),
        row("ensemble", "d", "One client, 64 observations a request", "us, p50", "p50", found, ()),
    ]


def row(key: str, letter: str, title: str, unit: str, figure: str, found: dict, bounds: tuple) -> dict[str, Any]:
    scores = []
    for (case, who), each in found.items():
        if case == key:
            told = sorted(each, key=lambda one: one.per_second)[len(each) // 2].told
            values = [getattr(one, figure) for one in each]
            command = "python -m tests.benchmarks.serving"
            scores.append({"name": who, "command": command, "values": values, "told": told})
    claims = [{"of": OURS, "against": FASTAPI, **bound} for bound in bounds]
    if key == "ensemble":
        claims = [{"of": "an ensemble of 5", "against": "one policy"}]
    note = "ppo-cartpole's network; clients and the one worker on the same machine."
    return {"key": f"serve-{letter}", "title": title, "unit": unit, "note": note, "scores": scores, "claims": claims}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--endpoint", type=Path, metavar="FILE.onnx", help="be the FastAPI server, and nothing else")
    args = parser.parse_args()
    if args.endpoint is not None:
        endpoint(args.endpoint)
        return
    rows = measure(args.rounds, args.seconds)
    for each in rows:
        for score in each["scores"]:
            print(f"{each['key']} {each['title']}: {score['name']}: {score['told']}", flush=True)
    if args.json is not None:
        write_json(args.json, {"rows": rows})


if __name__ == "__main__":
    main()
