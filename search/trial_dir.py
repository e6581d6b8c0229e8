"""The driver's side of the directory that a trial and its driver share. The files decide; either side may die."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.files import read_json, read_json_lines, write_json
from harness.lifecycle.failures import claim_failures


@dataclass(frozen=True)
class Report:
    """One evaluation that rank 0 reported."""

    seed: int
    """Index of the seed, 0 … seeds - 1."""
    step: int
    """Number of the evaluation, 1 … K, or 0 … K - 1 of a script that counts so."""
    value: float | None
    """None where it was not finite."""


@dataclass(frozen=True)
class Result:
    """What a run's `result.json` says about how it ended."""

    status: str
    """done, pruned, stopped or failed."""
    value: float | None
    reason: str
    diverged: bool
    seconds: float = 0.0
    """How long its ranks trained and evaluated, as far as it says."""


@dataclass(frozen=True)
class Failure:
    """What a rank that failed left behind."""

    rank: int
    host: str
    reason: str
    lines: tuple[str, ...]


@dataclass
class TrialDir:
    """`STUDY_DIR/trial-00007`, as one attempt sees it: reports and results of older attempts do not exist."""

    path: Path
    attempt: int = 1
    jobs: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Seed -> its job, of those that were started or about to be."""
    parallel: bool = False
    """Its seeds run at once (a confirmation): each prints into a file of its own, and a verdict is for all of them."""
    last: dict[int, Report] = field(default_factory=dict)
    """Seed -> the report that came last."""
    _offset: int = 0
    _seen: set[tuple[int, int]] = field(default_factory=set)

    def output(self, seed: int) -> Path:
        """What the ranks printed."""
        return self.path / (f"seed-{seed}.log" if self.parallel else "output.log")

    def seed_path(self, seed: int) -> Path:
        """The run directory of one seed."""
        return self.path / f"seed-{seed}"

    def environment(self, seed: int) -> dict[str, str]:
        """What the ranks of one seed's job need to find this directory."""
        return {
            "HARNESS_TRIAL_DIR": str(self.path),
            "HARNESS_ATTEMPT": str(self.attempt),
            "HARNESS_SEED_INDEX": str(seed),
        }

    def write_job(self, seed: int, job: dict[str, Any]) -> None:
        """Notes what a restarted driver needs to find the job of this seed, beside those of the seeds before."""
        self.jobs[seed] = job
        write_json(self.path / "job.json", {"attempt": self.attempt, "seeds": self.jobs})

    def write_verdict(self, stop: str, seed: int) -> None:
        """Tells the ranks to stop: `pruned`, or `stopped` where the driver itself was asked to."""
        of_one_seed = {} if self.parallel else {"seed": seed}
        write_json(self.path / "verdict.json", {"stop": stop, "attempt": self.attempt, **of_one_seed})

    def take_back_verdict(self) -> None:
        (self.path / "verdict.json").unlink(missing_ok=True)

    def read_verdict(self, seed: int) -> str | None:
        verdict = read_json(self.path / "verdict.json")
        if not isinstance(verdict, dict) or verdict.get("attempt") != self.attempt or verdict.get("seed", seed) != seed:
            return None
        return verdict.get("stop")

    def new_reports(self) -> list[Report]:
        """Those that came since the last call; the same step of the same seed counts once, the first time."""
        lines, self._offset = read_json_lines(self.path / "reports.jsonl", self._offset)
        reports = []
        for line in lines:
            report = self._report(line)
            if report is not None and (report.seed, report.step) not in self._seen:
                self._seen.add((report.seed, report.step))
                self.last[report.seed] = report
                reports.append(report)
        return reports

    def _report(self, line: Any) -> Report | None:
        if not isinstance(line, dict) or line.get("attempt", self.attempt) != self.attempt:
            return None
        step: Any = line.get("step")
        seed: Any = line.get("seed", 0)
        if not (is_whole(step) and is_whole(seed)) or seed < 0:
            return None
        return Report(seed, step, finite(line.get("value")))

    def result(self, seed: int) -> Result | None:
        """How the run of one seed ended; None where it did not say."""
        result = read_json(self.seed_path(seed) / "result.json")
        if not isinstance(result, dict) or result.get("attempt", self.attempt) != self.attempt:
            return None
        return Result(
            str(result.get("status")),
            finite(result.get("value")),
            str(result.get("reason") or ""),
            bool(result.get("divergence")),
            finite(result.get("wall_seconds")) or 0.0,
        )

    def failure(self, seed: int) -> Failure | None:
        """Why the run of one seed has no result: of the ranks that recorded that, the first."""
        for record in claim_failures(self.seed_path(seed)):
            return Failure(record["rank"], record["host"], record["reason"], tuple(record["lines"]))
        return None


def open_trial_dir(path: Path, parallel: bool = False) -> TrialDir:
    """A directory as a restarted driver finds it: the latest attempt, with its jobs; new where there is none."""
    noted = read_json(path / "job.json")
    if not isinstance(noted, dict) or not is_whole(noted.get("attempt")):
        return TrialDir(path, parallel=parallel)
    jobs = {int(seed): job for seed, job in noted.get("seeds", {}).items()}
    return TrialDir(path, noted["attempt"], jobs, parallel)


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def finite(value: Any) -> float | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return None
    return number if math.isfinite(number) else None


def trial_path(study_dir: Path, number: int) -> Path:
    return study_dir / f"trial-{number:05d}"
