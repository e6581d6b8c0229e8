"""`harness serve`: a policy behind a port, by worker processes that this one starts, feeds and replaces.

This process accepts connections and hands each to the worker that has fewest; it has no part in what they say. It reads
the policy's file, gives its bytes to the workers, and does so again on SIGHUP: they go over to the new policy between
two batches. On SIGTERM it accepts no more, and ends when the workers have answered what had arrived.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import BadInput
from harness.policy.onnx_policy import OnnxPolicy
from harness.policy.protocol import BUSY, PORT, refusal
from harness.policy.serving.connection import Limits
from harness.policy.serving.counts import merged, prometheus
from harness.policy.serving.health import serve_health
from harness.policy.serving.processes import Process, give, start, tell

LARGEST = 2**22
"""Bytes of observations of a request, where they are not of a single one."""
MOST_CONNECTIONS = 512
FULL_SECONDS = 0.1
"""That a connection waits for another one to end."""
STARTING_SECONDS = 60.0
SOON_SECONDS, SOON_MOST = 5.0, 5
"""A worker that ends within so many seconds of its start, so often in a row, is not started again."""


@dataclass(frozen=True)
class Options:
    source: Path
    """A file FILE.onnx, or a run's directory, which is exported first."""
    best: bool = False
    workers: int = 1
    host: str = "127.0.0.1"
    port: int = PORT
    health_port: int | None = None
    """None: the port after `port`."""
    gpus: tuple[int, ...] = ()
    """One for each worker in turn; none: CPU cores."""
    limits: Limits = field(default_factory=Limits)
    connections: int = MOST_CONNECTIONS


class Server:
    def __init__(self, options: Options, say: Callable[[str], None]) -> None:
        self.options, self.say = options, say
        self.model, self.version, self.restarts, self.refused, self.swaps = b"", 0, 0, 0, 0
        self.card = self.read()
        size = int(np.prod(self.card.shape)) * self.card.dtype.itemsize
        most = max(1, min(options.limits.batch, LARGEST // max(size, 1)))
        self.limits = Limits(**{**asdict(options.limits), "batch": most})
        self.listening = listen(options.host, options.port)
        self.port = self.listening.getsockname()[1]
        own = 0 if options.port == 0 else options.port + 1
        self.health = listen(options.host, own if options.health_port is None else options.health_port)
        self.workers: dict[int, Process] = {}
        """By their place."""
        self.retired: list[dict[str, Any]] = []
        self.soon, self.draining, self.failed = 0, False, False
        self.ended = asyncio.Event()

    def read(self) -> Any:
        """Takes the policy's bytes over; BadInput where it is none. Returns what it says of itself."""
        source = self.options.source
        if source.suffix == ".onnx" and not source.is_dir():
            try:
                model = source.read_bytes()
            except OSError as error:
                raise BadInput(f"{source} cannot be read: {error.strerror}") from None
        else:
            model = exported(source, self.options.best)
        card = OnnxPolicy(source, model).card
        self.model, self.version = model, self.version + 1
        return card

    # -- from the first line to the last -------------------------------------------------------------------------------

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.drain)
        loop.add_signal_handler(signal.SIGHUP, lambda: loop.create_task(self.swap()))
        for place in range(self.options.workers):
            self.start(place)
        health = await serve_health(self.health, self.state, self.metrics)
        until = time.monotonic() + STARTING_SECONDS
        while len(self.ready()) < self.options.workers and not self.failed and not self.draining:
            if time.monotonic() > until:
                self.say(f"not all workers have loaded the policy within {STARTING_SECONDS:.0f} s")
                self.failed = True
            await asyncio.sleep(0.01)
        accepting = None
        if not self.failed and not self.draining:
            where = f"{self.options.host}:{self.port}"
            self.say(
                f"{self.options.source} on {where}, {self.options.workers} worker{'s' * (self.options.workers > 1)}; "
                f"http://{self.options.host}:{self.health.getsockname()[1]}/health and /metrics"
            )
            accepting = loop.create_task(self.accept())
            await self.ended.wait()
        if accepting is not None:
            accepting.cancel()
        self.listening.close()
        await self.end_workers()
        health.close()
        return 1 if self.failed else 0

    def ready(self) -> list[Process]:
        return [each for each in self.workers.values() if each.version]

    async def accept(self) -> None:
        loop = asyncio.get_running_loop()
        self.listening.setblocking(False)
        while True:
            try:
                accepted, _ = await loop.sock_accept(self.listening)
            except OSError:  # of files that are all open, say: those that wait, wait
                await asyncio.sleep(0.1)
                continue
            await self.hand_over(accepted)

    async def hand_over(self, accepted: socket.socket) -> None:
        """To the worker with the fewest connections; refused where there are too many. While no worker can take it,
        this one and those behind it wait."""
        begun = time.monotonic()
        with accepted:
            while True:
                workers = sorted(self.ready(), key=lambda each: each.open)
                full = sum(each.open for each in workers) >= self.options.connections
                for worker in [] if full else workers:
                    try:
                        socket.send_fds(worker.socket, [b'{"connection": true}'], [accepted.fileno()])
                    except OSError:  # it has many to take already, or is about to be replaced
                        continue
                    worker.given += 1
                    return
                if time.monotonic() > (begun + FULL_SECONDS if full else begun + self.limits.patience):
                    break
                await asyncio.sleep(0.005)
            self.refused += 1
            with suppress(OSError):
                accepted.setblocking(False)
                accepted.send(refusal(BUSY, 0, "too many connections" if full else "no worker is ready"))

    def drain(self) -> None:
        self.draining = True
        self.ended.set()

    async def end_workers(self) -> None:
        self.draining = True
        for worker in self.workers.values():
            tell(worker, {"drain": True})
        until = time.monotonic() + self.limits.patience + 2.0
        while time.monotonic() < until and any(each.process.poll() is None for each in self.workers.values()):
            await asyncio.sleep(0.02)
        for worker in self.workers.values():
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.wait()

    # -- workers -------------------------------------------------------------------------------------------------------

    def start(self, place: int) -> None:
        worker = self.workers[place] = start(place, self.limits, self.options.gpus)
        asyncio.get_running_loop().add_reader(worker.socket.fileno(), self.listen_to, place, worker)
        give(worker, self.model, self.version)

    def listen_to(self, place: int, worker: Process) -> None:
        try:
            message = worker.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            self.replace(place, worker)
            return
        worker.counts = json.loads(message)
        if worker.counts["problem"]:
            self.say(f"worker {place} cannot load the policy: {worker.counts['problem']}")

    def replace(self, place: int, worker: Process) -> None:
        """Of a worker that has ended."""
        asyncio.get_running_loop().remove_reader(worker.socket.fileno())
        worker.socket.close()
        self.retired = [merged([*self.retired, worker.counts])]
        if self.draining:
            return
        worker.process.kill()  # it has closed its socket, so it serves nobody
        code = worker.process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self.say(f"worker {place} ended ({how})")
        del self.workers[place]
        self.restarts += 1
        self.soon = self.soon + 1 if time.monotonic() - worker.started < SOON_SECONDS else 0
        if self.soon >= SOON_MOST:
            self.say(f"{self.soon} workers have ended within {SOON_SECONDS:.0f} s of their start: giving up")
            self.failed = True
            self.ended.set()
            return
        self.start(place)

    async def swap(self) -> None:
        """The file anew, or the run's newest checkpoint; the old policy stays where it cannot be had."""
        old = self.model, self.version
        try:
            card = await asyncio.to_thread(self.read)
            for what in ("observations", "actions", "noise"):
                if getattr(card, what) != getattr(self.card, what):
                    raise BadInput(f"{self.options.source} has other {what} than the policy that is served")
        except BadInput as error:
            self.model, self.version = old
            self.say(f"version {self.version} stays: {error}")
            return
        self.card, self.swaps = card, self.swaps + 1
        for worker in self.workers.values():
            give(worker, self.model, self.version)
        self.say(f"version {self.version} of {self.options.source}")

    # -- what is told --------------------------------------------------------------------------------------------------

    def state(self) -> tuple[bool, dict[str, Any]]:
        """Whether it serves, and what /health says."""
        ready = self.ready()
        status = "draining" if self.draining else "ok" if ready else "starting"
        about = {
            "status": status,
            "version": min((each.version for each in ready), default=0),
            "workers": len(ready),
            "connections": sum(each.open for each in ready),
            "source": str(self.options.source),
            "preset": self.card.preset,
        }
        return status == "ok", about

    def metrics(self) -> str:
        ready = self.ready()
        total = merged([*self.retired, *(each.counts for each in self.workers.values())])
        connections, version = sum(each.open for each in ready), min((each.version for each in ready), default=0)
        return prometheus(total, connections, self.refused, len(ready), self.restarts, version, self.swaps)


def listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"--port: {host}:{port} cannot be listened on: {reason}") from None


def exported(run_dir: Path, best: bool) -> bytes:
    """By a process of its own: this one needs no torch."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "policy.onnx"
        command = [sys.executable, "-m", "harness", "export", str(run_dir), "--output", str(output)]
        done = subprocess.run([*command, *(["--best"] if best else [])], capture_output=True, text=True)
        if done.returncode:
            raise BadInput(
                (done.stderr.strip().splitlines() or ["it cannot be exported"])[-1].removeprefix("harness: ")
            )
        return output.read_bytes()


def serve(options: Options) -> int:
    """Serves until it is told to stop: 0 then, 1 where workers do not live."""

    async def main() -> int:
        return await Server(options, lambda line: print(f"serve: {line}", flush=True)).run()

    return asyncio.run(main())
