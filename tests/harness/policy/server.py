"""A server of its own for a test: `with Serving(file) as server`.

`python -m tests.harness.policy.server OPTIONS` is one whose patience is a test's."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from harness.policy.client import Client
from tests.command import ROOT, environment
from tests.conftest import wait_for
from tests.forkserver import ADDRESS


class Serving:
    def __init__(self, source: Path, workers: int = 1, patience: float = 10.0, connections: int = 512) -> None:
        options = {"source": str(source), "workers": workers, "patience": patience, "connections": connections}
        self.output = source.parent / f"serve-{os.urandom(4).hex()}.log"
        with self.output.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.harness.policy.server", json.dumps(options)],
                cwd=ROOT,
                env={
                    name: value for name, value in environment().items() if name != ADDRESS
                },  # whose forks inherit nothing
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Serving:
        listening = r"on (127\.0\.0\.1:\d+), .*http://(127\.0\.0\.1:\d+)"
        try:
            wait_for(lambda: self.said(listening), 20, "line of the server", self.output.read_text)
        except BaseException:
            self.__exit__()
            raise
        found = self.said(listening)
        assert found is not None
        self.address, self.http = found[1], found[2]
        return self

    def said(self, pattern: str) -> re.Match[str] | None:
        return re.search(pattern, self.output.read_text())

    def client(self, timeout: float = 10.0) -> Client:
        return Client(self.address, timeout)

    def health(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://{self.http}/health", timeout=10) as answer:
            return json.loads(answer.read())

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"harness_{name}(\{{| )", line))

    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


if __name__ == "__main__":
    from harness.policy.serving.connection import Limits
    from harness.policy.serving.server import Options, serve

    given = json.loads(sys.argv[1])
    limits = Limits(patience=given["patience"])
    source, connections = Path(given["source"]), given["connections"]
    options = Options(source, workers=given["workers"], port=0, limits=limits, connections=connections)
    sys.exit(serve(options))
