"""Real launches of small scripts, ended after each test."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.errors import BadInput
from harness.launching import JobSpec, Launcher, Outcome, ProcessJob, get_launcher, local_hosts
from harness.launching.outcome import split_output
from tests.conftest import need, slow, wait_for

Start = Callable[..., ProcessJob]

# Each script begins with this: it needs no torch and no MPI to know its rank.
launchers: dict[str, Launcher] = {}
PREAMBLE = """
import os, signal, subprocess, sys, time
rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("HOROVOD_RANK", "-1")))
"""


@pytest.fixture(scope="module", autouse=True)
def close_pools() -> Iterator[None]:
    yield
    while launchers:
        launchers.popitem()[1].close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts two ranks (or `ranks`) of a Python script's text under a launcher."""
    started: list[ProcessJob] = []
    numbers = itertools.count()

    def start_script(
        launcher: str, script: str, *wrapper: str, ranks: int = 2, env: dict[str, str] | None = None
    ) -> ProcessJob:
        run_id = f"test-{os.getpid()}-{tmp_path.name}-{next(numbers)}"
        path = tmp_path / f"{run_id}.py"
        path.write_text(PREAMBLE + script)
        command = (*wrapper, sys.executable, str(path))
        output = tmp_path / f"{run_id}.log"
        chosen = launchers.setdefault(launcher, get_launcher(launcher))  # a pool's server serves all tests
        job = JobSpec(command, ranks, tuple(local_hosts(ranks)), env or {}, run_id, output, tmp_path)
        started.append(chosen.start(job))
        return started[-1]

    yield start_script
    problems = [problem for running in started for problem in running.end(grace=1)]
    assert not problems


def ended(running: ProcessJob, seconds: float = 60) -> Outcome:
    wait_for(lambda: running.poll() is not None, seconds, "end of the job", explain=lambda: output_of(running))
    outcome = running.poll()
    assert outcome is not None
    return outcome


def output_of(running: ProcessJob) -> str:
    return Path(running.save()["output"]).read_text(errors="replace")


def lines_of(running: ProcessJob) -> list[str]:
    """The lines of all ranks, put together from the pieces in which mpirun shows them, without tags."""
    return [line for lines in split_output(output_of(running))[1].values() for line in lines]


def printed(running: ProcessJob, line: str, times: int = 2, seconds: float = 60) -> None:
    """Waits until ranks have printed `line` `times` times."""
    wait_for(
        lambda: lines_of(running).count(line) >= times,
        seconds,
        f"{line!r} {times} times",
        explain=lambda: output_of(running),
    )


@pytest.fixture(params=["horovodrun", slow("horovodrun-gloo"), "mpirun", slow("pool"), slow("pool-gloo")])
def launcher(request: pytest.FixtureRequest) -> str:
    try:
        get_launcher(request.param).check()
    except BadInput as missing:
        need(False, str(missing))
    return request.param
