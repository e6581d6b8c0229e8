"""How a run ended, from all that it left behind: its result, what its ranks recorded, and how its job ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.launching import Outcome
from harness.text import last_that_fit, one_line
from search.trial_dir import Failure, Report, Result

Status = Literal["done", "pruned", "diverged", "stopped", "failed"]


@dataclass(frozen=True)
class End:
    """How a run, or a whole trial, ended."""

    status: Status
    value: float | None = None
    reason: str = ""
    last_lines: tuple[str, ...] = ()
    """What the rank to blame printed last."""
    lost_host: str | None = None
    """The host that went, and with it the run."""

    def __post_init__(self) -> None:
        """Whatever a script printed or raised, it fits into a line and into any database."""
        object.__setattr__(self, "reason", one_line(self.reason))
        object.__setattr__(self, "last_lines", last_that_fit(self.last_lines))


@dataclass(frozen=True)
class Evidence:
    """All that is known of how a run ended."""

    result: Result | None = None
    """Its `result.json`."""
    speaks_for_all: bool = True
    """Whether a result says that all ranks came to it, or rank 0 alone."""
    failure: Failure | None = None
    """What a rank recorded before it ended the others."""
    outcome: Outcome | None = None
    """How its job ended, as the launcher reports; None where this driver ended it."""
    asked: str | None = None
    """`pruned` or `stopped`, where the driver had asked for that."""
    cut: str | None = None
    """Why the driver ended the job, if it did."""
    reported: Report | None = None
    """Its last report."""


def classify(evidence: Evidence) -> End:
    """The ranks' own result counts before what the driver asked of them, and that before what went wrong."""
    return ranks_own_end(evidence) or wanted_end(evidence) or reported_end(evidence) or failed_end(evidence)


def ranks_own_end(evidence: Evidence) -> End | None:
    result, outcome = evidence.result, evidence.outcome
    if result is None:
        return None
    if result.diverged or result.status == "done" and result.value is None:
        lines = outcome.last_lines if outcome else ()
        return End("diverged", reason=result.reason or "its value is not finite", last_lines=lines)
    lost_rank = outcome is not None and outcome.failed_rank is not None and not evidence.speaks_for_all
    return End("done", result.value) if result.status == "done" and not lost_rank else None


def wanted_end(evidence: Evidence) -> End | None:
    if evidence.asked == "pruned":
        return End("pruned", reason=evidence.cut or "")
    if evidence.asked is not None:
        return End("stopped", reason="stopped on request")
    return None


def reported_end(evidence: Evidence) -> End | None:
    """Of a script whose ranks all ended with 0 but left no result, as where a simulator ends the process itself: done
    with its last report."""
    outcome, reported = evidence.outcome, evidence.reported
    ended_well = evidence.result is None and evidence.failure is None and outcome is not None and outcome.exit_code == 0
    if not ended_well or evidence.speaks_for_all or reported is None:
        return None
    return End("diverged", reason="its value is not finite") if reported.value is None else End("done", reported.value)


def failed_end(evidence: Evidence) -> End:
    result, failure, outcome = evidence.result, evidence.failure, evidence.outcome
    lines = outcome.last_lines if outcome else ()
    if evidence.cut is not None:
        return End("failed", reason=evidence.cut, last_lines=lines)
    if failure is not None and (outcome is None or outcome.signal is None):  # an abort hides from a launcher who raised
        why = f"rank {failure.rank} on {failure.host} failed: {failure.reason}"
        return End("failed", reason=why, last_lines=failure.lines)
    said = result.reason if result is not None else ""
    if result is not None and result.status in ("pruned", "stopped"):
        return End("failed", reason=f"{result.status}, which this study did not ask for: {said}", last_lines=lines)
    if outcome is not None and outcome.exit_code != 0:
        described = outcome.describe()
        reason = described if said in described else f"{described}; {said}"
        return End("failed", reason=reason, last_lines=lines, lost_host=outcome.lost_host)
    missing = "the job ended without result.json: its script never called harness.reporting.report"
    return End("failed", reason=said or missing, last_lines=lines)
