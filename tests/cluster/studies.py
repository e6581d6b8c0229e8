"""A study of trials that take no learning, for tests of what surrounds it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

TRIAL = Path(__file__).with_name("trial_that_takes_its_time.py")


def write_study(folder: Path, name: str, trials: int, seconds: float) -> Path:
    """A study whose trials are one rank each, report 3 times and take `seconds` in all."""
    command = [sys.executable, str(TRIAL), "{x}", "3", str(seconds / 3)]
    path = folder / f"{name}.toml"
    path.write_text(f"""
[study]
name = "{name}"
trials = {trials}
sampler = "random"
pruner = "none"

[trial]
command = {json.dumps(command)}
ranks = 1
launcher = "mpirun"

[space]
x = {{low = 0.0, high = 1.0}}

[confirm]
seeds = 0
""")
    return path


def search(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """`python -m search …` in `folder`, running; its output, errors included, as text."""
    return subprocess.Popen(
        [sys.executable, "-m", "search", *arguments],
        cwd=folder,
        env={**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def search_to_its_end(folder: Path, *arguments: str) -> str:
    with search(folder, *arguments) as process:
        printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    return printed
