"""What tests of every room share: what to do where the machine lacks something."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from harness.launching.warm.environment import AT_IMPORT
from harness.training.compile.store import FOLDER
from tests.forkserver import ADDRESS, ForkServer

FRESH = "HARNESS_TESTS_FRESH"
servers: list[ForkServer] = []


def pytest_configure(config: pytest.Config) -> None:
    """One fork server for all of a session's processes, which share it. No run keeps compiled code, or has any compiled
    beside it, unless its test says where."""
    os.environ[FOLDER] = ""
    if not hasattr(config, "workerinput") and not os.environ.get(FRESH) and not config.option.collectonly:
        servers.append(ForkServer())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    while servers:
        terminalreporter.write_line(servers.pop().close())


def pytest_unconfigure() -> None:
    while servers:  # nothing was run
        servers.pop().close()


@pytest.fixture(autouse=True)
def start_fresh_where_asked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test marked `fresh_start` starts is a process from its first instruction on, imports and all."""
    if request.node.get_closest_marker("fresh_start") is not None:
        monkeypatch.delenv(ADDRESS, raising=False)


@pytest.fixture(autouse=True)
def leave_the_environment() -> Iterator[None]:
    """What a test's libraries set of what others read as they are loaded (drawing sets MUJOCO_GL) is taken back: the
    fork server would start none of the next tests' processes."""
    before = {name: value for name, value in os.environ.items() if name.startswith(AT_IMPORT)}
    yield
    for name in [name for name in os.environ if name.startswith(AT_IMPORT) and name not in before]:
        del os.environ[name]
    os.environ.update(before)


def slow(*values: Any, id: str | None = None) -> Any:
    """A parameter that only `make test-all` tries."""
    return pytest.param(*values, marks=pytest.mark.slow, id=id)


def need(condition: object, reason: str) -> None:
    """Skips the test with its reason where the machine lacks what it needs; with `CI=true` that is a failure.

    A laptop need not have Slurm to run the tests, but a CI that quietly skips them would be worth nothing.
    """
    if condition:
        return
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(f"missing, and CI must not skip: {reason}", pytrace=False)
    pytest.skip(reason)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Meanwhile the disk takes no more than so many bytes of any file that this process writes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def wait_for(
    condition: Callable[[], object], seconds: float, what: str, explain: Callable[[], str] | None = None
) -> None:
    """Waits until `condition()` is true; then it fails, naming `what` was awaited and `explain()`.

    `seconds`: what it may take on a quick machine; a slow one that has other work has five times as long.
    """
    deadline = time.monotonic() + 5 * seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"no {what} within {seconds:g} s" + (f":\n{explain()}" if explain else ""))
        time.sleep(0.02)
