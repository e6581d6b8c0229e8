"""Real ranks for tests: `run_ranks(2, "horovodrun", CODE)` starts them, waits, and hands back what each one gave.

The code of a rank takes its place by `join()` and hands a value back by `give(value)`.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.distributed.transports.base import Communicator
from harness.distributed.world import World, detect_place
from harness.errors import BadInput
from harness.launching import Host, JobSpec, Outcome, get_launcher
from harness.launching.outcome import split_output
from tests.conftest import need

ROOT = Path(__file__).resolve().parents[2]
FOLDER, SYNC_PATH = "TEST_FOLDER", "TEST_SYNC_PATH"

WAYS = {
    "horovod-mpi": ("horovodrun", "horovod"),
    "horovod-gloo": ("horovodrun-gloo", "horovod"),
    "mpi": ("mpirun", "mpi"),
}
"""Launcher and sync path of each way to reduce: what a test of all of them is parametrised by."""


@dataclass(frozen=True)
class Ranks:
    """How ranks ended. given: what each rank gave, None where it did not come so far."""

    outcome: Outcome
    output: str
    given: tuple[Any, ...]

    def lines(self, rank: int) -> list[str]:
        """What a rank printed."""
        return split_output(self.output)[1].get(rank, [])


def run_ranks(
    ranks: int,
    launcher: str,
    code: str | Path,
    folder: Path,
    *arguments: str,
    sync_path: str = "auto",
    env: Mapping[str, str] | None = None,
    seconds: float = 120.0,
    fails: bool = False,
) -> Ranks:
    """Runs Python `code` (source, or a file) on `ranks` ranks of this host; they and their files are gone afterwards.

    `folder` is an empty one for the files; `arguments` are the ranks' sys.argv[1:]; `env` joins their environment.
    Unless the ranks are expected to fail, a failure is the test's, with what they printed.
    """
    folder = folder / f"ranks-{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    if isinstance(code, str):
        script = folder / "script.py"
        script.write_text(code)
    else:
        script = code
    search_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {FOLDER: str(folder), SYNC_PATH: sync_path, "PYTHONPATH": search_path, "OMP_NUM_THREADS": "1"}
    job = JobSpec(
        command=(sys.executable, str(script), *arguments),
        ranks=ranks,
        hosts=(Host("localhost", ranks),),
        env={**own, **(env or {})},
        run_id=f"test-{uuid.uuid4().hex[:12]}",
        output=folder / "output.log",
        cwd=ROOT,
    )
    starter = get_launcher(launcher)
    try:
        starter.check()
    except BadInput as error:
        need(False, str(error))
    running = starter.start(job)
    deadline = time.monotonic() + seconds
    try:
        while (outcome := running.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        running.end()
    output = job.output.read_text(errors="replace")
    assert outcome is not None, f"{ranks} ranks under {launcher} did not end within {seconds:g} s:\n{output[-4000:]}"
    if not fails:
        assert outcome.exit_code == 0, f"{ranks} ranks under {launcher}: {outcome.describe()}\n{output[-4000:]}"
    return Ranks(outcome, output, tuple(load(folder, rank) for rank in range(ranks)))


def load(folder: Path, rank: int) -> Any:
    path = folder / f"rank-{rank}.pt"
    return torch.load(path, weights_only=False) if path.exists() else None


def join() -> tuple[World, Communicator]:
    """In a rank: its place, and the communicator of the sync path that the test chose."""
    torch.set_num_threads(1)
    world = World()
    return world, world.start(os.environ[SYNC_PATH])


def give(value: Any) -> None:
    """In a rank: hands `value` (anything that pickles, tensors too) to the test; the last one counts."""
    path = Path(os.environ[FOLDER]) / f"rank-{detect_place(os.environ).rank}.pt"
    aside = path.with_suffix(".aside")
    torch.save(value, aside)
    aside.rename(path)
