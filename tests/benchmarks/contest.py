"""Contestants take turns, A B C A B C …, each in processes of its own; a row compares their figures.

A contestant is a Python module that takes `--seed ROUND` and `--json FILE`, and whose rank 0 writes its figures there.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from harness.files import read_json
from harness.launching.environment import launch_environment
from harness.launching.processes import RUN_ID, end_all
from tests.benchmarks.figures import Claim, Result, Score, Verdict, number
from tests.benchmarks.machine import Watch

ROOT = Path(__file__).resolve().parents[2]
YIELD = {"OMPI_MCA_mpi_yield_when_idle": "1"}
TUNED = {**YIELD, "HOROVOD_CYCLE_TIME": "0.1"}


@dataclass(frozen=True)
class Contestant:
    name: str
    module: str
    arguments: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()
    """`("horovodrun", "-np", "2", "--mpi")`; empty: one process, no launcher."""
    env: Mapping[str, str] = field(default_factory=dict)
    """What the user of a peer would set by hand."""
    limit: float = 240.0
    """Seconds that a round may take."""
    root: Path = ROOT
    """The checkout whose code runs."""

    def shown(self) -> str:
        """The command, as a person would type it."""
        settings = [f"{name}={value}" for name, value in self.env.items()]
        return shlex.join([*settings, *self.launcher, "python", "-m", self.module, *self.arguments])

    def run(self, seed: int, *more: str) -> dict[str, Any]:
        """One round: its figures. Raises RuntimeError, with what it printed, where it gave none within the limit."""
        with tempfile.TemporaryDirectory() as folder:
            figures, output = Path(folder) / "figures.json", Path(folder) / "output.log"
            command = [sys.executable, "-m", self.module, *self.arguments, *more]
            command += ["--seed", str(seed), "--json", str(figures)]
            run_id = f"bench-{uuid.uuid4().hex[:12]}"
            with output.open("wb") as out:
                process = subprocess.Popen(
                    [*self.launcher, *command],
                    cwd=self.root,
                    env={**bare_environment(self.root), **self.env, RUN_ID: run_id},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                try:
                    process.wait(self.limit)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGTERM)
                finally:
                    end_all(run_id)
                    process.wait()
            found = read_json(figures)
            if found is None:
                raise RuntimeError(
                    f"{self.name}: no figures\n{self.shown()}\n{output.read_text(errors='replace')[-4000:]}"
                )
            return dict(found)


def bare_environment(root: Path = ROOT) -> dict[str, str]:
    """What any MPI job here needs, without what this project sets to be fast: a peer gets its launcher's defaults."""
    env = launch_environment(os.environ)
    for name in TUNED:
        env.pop(name, None)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    env.pop("OMP_NUM_THREADS", None)  # who wants one thread a rank says so in the program
    return env


def score(contestant: Contestant, rounds: list[dict[str, Any]], figure: str) -> Score:
    ordered = sorted(rounds, key=lambda figures: figures[figure])
    middle = ordered[len(ordered) // 2]
    values = [figures[figure] for figures in rounds]
    return Score(contestant.name, contestant.shown(), values, middle.get("shares", {}), middle.get("told", ""))


@dataclass(frozen=True)
class Row:
    key: str
    """What `ROWS=` calls it: the number in the list of what is to be shown, and a letter."""
    title: str
    figure: str
    """The figure of each contestant that is compared."""
    unit: str
    contestants: tuple[Contestant, ...]
    claims: tuple[Claim, ...]
    rounds: int = 5
    rehearsal: tuple[Contestant, ...] = ()
    """What runs once before the first round, uncounted: it leaves compiled code in the cache on disk."""
    note: str = ""
    """How to read it: definitions that the title has no room for."""

    def run(
        self,
        rounds: int | None = None,
        seconds: float | None = None,
        say: Callable[[str], None] = partial(print, flush=True),
    ) -> list[Score]:
        """Every contestant's score, in the order of `contestants`; they take turns. `rounds` and the `seconds` that a
        contestant measures are the row's own unless they are given."""
        more = [] if seconds is None else ["--seconds", str(seconds)]
        for contestant in self.rehearsal:
            contestant.run(0)
        found: dict[str, list[dict[str, Any]]] = {contestant.name: [] for contestant in self.contestants}
        for turn in range(rounds or self.rounds):
            for contestant in self.contestants:
                figures = contestant.run(turn, *more)
                found[contestant.name].append(figures)
                say(f"row {self.key}, round {turn + 1}: {contestant.name}: {number(figures[self.figure])} {self.unit}")
        return [score(contestant, found[contestant.name], self.figure) for contestant in self.contestants]

    def measure(self, command: str, rounds: int | None = None, seconds: float | None = None) -> list[Result]:
        with Watch() as watch:
            scores = self.run(rounds, seconds)
        verdicts = [Verdict.on(claim, scores) for claim in self.claims]
        return [Result(self.key, self.title, self.unit, self.note, scores, verdicts, watch.birth(command))]


@dataclass(frozen=True)
class Joined:
    """A module that takes its own turns: it writes `{"rows": [{"key", "title", "unit", "note", "scores": [{"name",
    "command", "values"}], "claims": [{"of", "against", "at_most"}]}]}`, values one a round, claims as `Claim` has them.
    """

    key: str
    """What `ROWS=` calls it; its rows' keys begin with it."""
    module: str

    def measure(self, command: str, rounds: int | None = None, seconds: float | None = None) -> list[Result]:
        more = [part for part in (f"--rounds={rounds}", f"--seconds={seconds}") if not part.endswith("None")]
        with Watch() as watch:
            rows = Contestant(self.module, self.module, limit=1800.0).run(0, *more)["rows"]
        results = []
        for row in rows:
            scores = [Score(**score) for score in row["scores"]]
            verdicts = [Verdict.on(Claim(**claim), scores) for claim in row.get("claims", [])]
            birth = watch.birth(command)
            results.append(Result(row["key"], row["title"], row["unit"], row.get("note", ""), scores, verdicts, birth))
        return results
