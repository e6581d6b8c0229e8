"""Minutes by group of tests beside what each group may take, printed at the end of a session.

A group is a folder of tests. Budgets stand in `budgets.toml` and are scaled by a short calibration, since machines
differ by 2.5. It names what exceeds its budget; no test fails by the clock. Files that take minutes are run first:
begun last, one of them would leave the other processes idle. Where TESTS_DEADLINE is set, a time in seconds since 1970,
they are run last, and what has not begun by then is skipped with that reason: a slow machine runs what it can.
"""

from __future__ import annotations

import hashlib
import os
import time
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

BUDGETS = Path(__file__).with_name("budgets.toml")
DEADLINE = "TESTS_DEADLINE"
SLACK = 1.25
"""Of a budget, before it counts as exceeded: what two sessions on one machine differ by."""


def calibrate() -> float:
    """CPU seconds of a fixed piece of work on one core: Python's own, and a hash over some megabytes."""
    began = time.process_time()
    hashlib.sha256(bytes(40_000_000)).digest()
    total = 0
    for number in range(1_500_000):
        total += number & 3
    return time.process_time() - began


def group_of(nodeid: str) -> str:
    """`tests/harness/envs/test_x.py::test` belongs to `harness/envs`."""
    folders = nodeid.partition("::")[0].split("/")[1:-1]
    return "/".join(folders[:2]) or "tests"


class Budget:
    """Adds up what each test took, in whatever process it ran, and prints the table."""

    def __init__(self, tier: str) -> None:
        self.tier = tier
        self.seconds: dict[str, float] = defaultdict(float)
        self.tests: dict[str, set[str]] = defaultdict(set)
        table = tomllib.loads(BUDGETS.read_text())
        self.allowed: dict[str, float] = table[tier]
        self.factor = min(calibrate() for _ in range(3)) / table["calibration_seconds"]
        self.began = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        group = group_of(report.nodeid)
        self.seconds[group] += report.duration
        self.tests[group].add(report.nodeid)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        write = terminalreporter.write_line
        clock = (time.monotonic() - self.began) / 60
        terminalreporter.section(f"minutes by group: {clock:.1f} by the clock, machine factor {self.factor:.2f}")
        over = []
        for group in sorted(self.seconds, key=lambda group: -self.seconds[group]):
            took = self.seconds[group] / 60
            if group not in self.allowed:
                write(f"{group:28} {len(self.tests[group]):5} tests {took:7.2f} min, no budget yet")
                continue
            allowed = self.allowed[group] * self.factor
            mark = ""
            if took > allowed * SLACK:
                mark = "  over"
                over.append(group)
            write(f"{group:28} {len(self.tests[group]):5} tests {took:7.2f} min of {allowed:6.2f}{mark}")
        if over:
            write(f"over their budget ({BUDGETS.name}): {', '.join(over)}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--budget", choices=["test", "rest"], help="print minutes by group beside budgets.toml's")


@pytest.hookimpl(trylast=True)  # after the drawing of a random order
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    files = tomllib.loads(BUDGETS.read_text())["long_files"]
    if DEADLINE in os.environ:
        places = {name: place for place, name in enumerate(reversed(files), 1)}
    else:
        places = {name: place - len(files) for place, name in enumerate(files)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], 0))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if time.time() > float(os.environ.get(DEADLINE, "inf")):
        pytest.skip("no time is left")


def pytest_configure(config: pytest.Config) -> None:
    tier = config.getoption("--budget")
    if tier and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Budget(tier), "budget")
