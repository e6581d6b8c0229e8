"""The real command line, for tests: `harness("train", "ppo-cartpole")` gives exit code and what was printed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


def environment(added: Mapping[str, str] | None = None) -> dict[str, str]:
    search_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": search_path, **(added or {})}


def harness(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None, seconds: float = 200) -> Ran:
    command = [sys.executable, "-m", "harness", *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment(env), capture_output=True, text=True, timeout=seconds)
    return Ran(done.returncode, done.stdout, done.stderr)
