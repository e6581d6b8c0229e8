"""How a run ended, from what it left behind."""

from __future__ import annotations

import pytest

from harness.launching import Outcome
from search.trial_dir import Failure, Result
from search.trials.outcome import End, Evidence, classify
from search.trials.record import FAILURES_IN_A_ROW, FailureStreak, kind_of

DONE = Result("done", 5.0, "", False)
STOPPED = Result("stopped", 4.0, "stop requested", False)
KILLED = Outcome(137, 1, "hostb", "SIGKILL", ("last words",))
RAISED = Outcome(1, 1, "hostb", None, ("Traceback", "ValueError: no"), "ValueError: no")
FAILURE = Failure(1, "hostb", "ValueError: no", ("Traceback",))


@pytest.mark.parametrize(
    ("evidence", "status", "says"),
    [
        (Evidence(DONE, outcome=Outcome(0)), "done", ""),
        (Evidence(DONE, outcome=KILLED), "done", ""),  # harness train: all ranks had come to it
        (Evidence(DONE, speaks_for_all=False, outcome=KILLED), "failed", "SIGKILL"),
        (Evidence(DONE, speaks_for_all=False, outcome=Outcome(-1)), "done", ""),  # nobody was there to see it end
        (Evidence(DONE, asked="pruned"), "done", ""),  # the verdict came too late
        (Evidence(DONE, asked="stopped", cut="did not stop"), "done", ""),
        (Evidence(Result("done", None, "", False), outcome=Outcome(0)), "diverged", "not finite"),
        (Evidence(Result("failed", None, "loss is nan", True), outcome=Outcome(1, 0)), "diverged", "loss is nan"),
        (Evidence(Result("pruned", 3.0, "", False), outcome=Outcome(0), asked="pruned"), "pruned", ""),
        (Evidence(None, asked="pruned", cut="did not stop within 1 s"), "pruned", "did not stop"),
        (Evidence(None, outcome=KILLED, asked="stopped"), "stopped", ""),
        (Evidence(STOPPED, outcome=Outcome(75)), "failed", "did not ask for: stop requested"),
        (Evidence(None, cut="reported nothing"), "failed", "reported nothing"),
        (Evidence(None, outcome=KILLED), "failed", "rank 1 on hostb was killed by SIGKILL"),
        (Evidence(None, outcome=RAISED), "failed", "rank 1 on hostb ended with exit code 1: ValueError: no"),
        (Evidence(None, failure=FAILURE, outcome=Outcome(1, 0)), "failed", "rank 1 on hostb failed: ValueError: no"),
        (Evidence(None, failure=FAILURE, outcome=KILLED), "failed", "SIGKILL"),
        (Evidence(Result("failed", None, "ranks disagree", False), outcome=Outcome(0)), "failed", "ranks disagree"),
        (Evidence(None, outcome=Outcome(0)), "failed", "harness.reporting.report"),
    ],
)
def test_how_a_run_ended(evidence: Evidence, status: str, says: str) -> None:
    end = classify(evidence)
    assert end.status == status and says in end.reason


def failed(reason: str) -> End:
    return End("failed", reason=reason)


def test_one_cause_is_one_cause_whichever_rank_and_number_it_names() -> None:
    reasons = [
        "rank 0 on n1 ended with exit code 1: ValueError: lr 0.00123 is too large",
        "rank 1 on n2 ended with exit code 1: ValueError: lr 1.5e-05 is too large",
    ]
    assert len({kind_of(reason) for reason in reasons}) == 1
    assert kind_of(reasons[0]) != kind_of("rank 0 on n1 ended with exit code 1: KeyError: lr")


def test_failures_stop_a_study_only_in_a_row_and_of_one_cause() -> None:
    streak = FailureStreak()
    for reason in ("a 1", "a 2", "b", "a 3", "a 4"):
        streak.add(failed(reason))
    assert streak.cause is None
    streak.reset()
    for at in range(FAILURES_IN_A_ROW - 1):
        streak.add(failed(f"a {at}"))
    assert streak.cause is None
    streak.add(failed("a 9"))
    assert streak.cause == "a 9"
