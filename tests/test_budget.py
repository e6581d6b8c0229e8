"""Which tests begin when, and which not any more."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tests.budget import BUDGETS, DEADLINE
from tests.command import ROOT


@pytest.mark.parametrize(("left", "says"), [(600, "1 passed"), (-1, "1 skipped")])
def test_what_has_not_begun_by_the_deadline_is_skipped(left: int, says: str) -> None:
    env = {**os.environ, DEADLINE: str(time.time() + left), "PYTEST_ADDOPTS": ""}
    wanted = "tests/test_readme.py::test_the_readme_is_short_and_names_the_two_commands"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", wanted]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and says in done.stdout, done.stdout + done.stderr
    assert ("no time is left" in done.stdout) == (left < 0)


def test_the_long_files_are_there() -> None:
    names = [line.strip().strip('",') for line in BUDGETS.read_text().splitlines() if line.startswith('    "tests/')]
    assert names and all((ROOT / name).is_file() for name in names)
