"""One row of the doctor's table, and how it asks without being taken down by what it asks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Literal

from harness.launching.environment import launch_environment

State = Literal["ok", "missing", "broken"]
LOAD_SECONDS = 90.0


@dataclass(frozen=True)
class Row:
    what: str
    state: State
    detail: str
    advice: str = ""


def last_line(text: str) -> str:
    """The line that says it: the last one with something on it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no output"


def ask(code: str, *arguments: str, seconds: float = LOAD_SECONDS) -> tuple[dict[str, Any] | None, str]:
    """Runs `code` in a Python of its own; what it left in `answer`, or None and why."""
    printing = code + "\nimport json\nprint('\\nANSWER ' + json.dumps(answer))\n"
    command = [sys.executable, "-W", "ignore", "-c", printing, *arguments]
    try:
        done = subprocess.run(
            command, env=launch_environment(os.environ), capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return None, f"no answer within {seconds:.0f} s"
    for line in done.stdout.splitlines():
        if line.startswith("ANSWER "):
            return json.loads(line.removeprefix("ANSWER ")), ""
    ended = f"ended by signal {-done.returncode}" if done.returncode < 0 else ""
    return None, ended or last_line(done.stderr)


def absent(why: str, module: str) -> bool:
    """Whether `why` says that `module` itself is not installed, rather than that it does not load."""
    return re.search(rf"No module named '{module}'$", why) is not None


def unusable(what: str, module: str, why: str, missing: str, broken: str) -> Row:
    return Row(what, "missing", "not installed", missing) if absent(why, module) else Row(what, "broken", why, broken)
