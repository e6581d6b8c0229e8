"""How a run ends: what is kept, and what its result says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.lifecycle.elastic import RanksChange
from harness.lifecycle.result import Result
from harness.run.stopping import StopReason
from harness.run.summary import result

if TYPE_CHECKING:
    from harness.run.loop import Run


def conclude(run: Run, reason: StopReason, where: str | None = None) -> Result:
    """The result of a run that the ranks agreed to end for `reason`, GO_ON where its budget is over. `where`: in the
    middle of what; RanksChange where it is to begin again on other ranks."""
    assert run.checkpointer is not None
    if reason == StopReason.GO_ON:
        return conclude_done(run)
    if reason == StopReason.RANKS_CHANGE:
        run.save()
        run.checkpointer.settle()
        raise RanksChange
    if reason == StopReason.PRUNED:
        run.checkpointer.settle()
        return result(run, "pruned", "pruned by the study", run.reporter.last_value)
    if reason == StopReason.SUPERSEDED:
        run.checkpointer.settle()
        return result(run, "stopped", "a newer attempt of this trial runs")
    return conclude_stopped(run, reason, where)


def conclude_done(run: Run) -> Result:
    """The last checkpoint, and the evaluation of the final policy, while it is written."""
    assert run.checkpointer is not None
    run.save()
    value = run.evaluations.make_final().mean
    problem = run.checkpointer.settle()
    run.phases.stop()
    early = run.counters.iteration < run.algorithm.iterations
    return result(run, "done", with_problem(run.evaluations.why_early() if early else None, problem), value)


def conclude_stopped(run: Run, reason: StopReason, where: str | None) -> Result:
    """A checkpoint, from which the run goes on when it is started again."""
    assert run.checkpointer is not None
    run.save()
    problem = run.checkpointer.settle()
    if problem is not None:  # of a save that was in flight, perhaps
        run.save()
        problem = run.checkpointer.settle()
    received = run.communicator.gather_objects(run.attempt.requests.received)
    names = ", ".join(sorted({name for name in received if name})) or "signal"
    reasons = {
        StopReason.STOP_REQUEST: f"stop requested ({names})",
        StopReason.TIME_IS_UP: "run.max_minutes is over",
        StopReason.STOP_VERDICT: "stopped by the study",
    }
    why = reasons[reason] + (f" {where}" if where else "")
    return result(run, "stopped", with_problem(why, problem))


def with_problem(reason: str | None, problem: str | None) -> str | None:
    """A result's reason, and what went wrong beside it."""
    return "; ".join(filter(None, (reason, problem))) or None
