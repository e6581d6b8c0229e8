"""A study of trials that take no learning, for tests of what surrounds it."""

from __future__ import annotations

import json
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


class Search:
    """`python -m search …` in `folder`, running, with all that it prints in a file. Ended when left."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.log = folder / f"search-{arguments[0]}.log"
        with self.log.open("w") as out:
            command = [sys.executable, "-m", "search", *arguments]
            self.process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT)

    def __enter__(self) -> Search:
        return self

    def __exit__(self, *_: object) -> None:
        if self.running():
            self.process.terminate()
        self.process.wait(300)

    def running(self) -> bool:
        return self.process.poll() is None

    def printed(self) -> str:
        return self.log.read_text(errors="replace")

    def finish(self, seconds: float = 300) -> str:
        """Waits until it has ended well; what it printed."""
        code = self.process.wait(seconds)
        assert code == 0, f"exit code {code}:\n{self.printed()}"
        return self.printed()
