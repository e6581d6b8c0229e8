from __future__ import annotations

import pytest

from harness.reporting import PhaseTimer, phases


@pytest.fixture
def clock(monkeypatch):
    now = [50.0]
    monkeypatch.setattr(phases, "perf_counter", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def test_each_phase_gets_the_time_until_the_next_one_starts(clock):
    timer = PhaseTimer()
    for _ in range(2):
        timer.start("act")
        clock(1.0)
        timer.start("update")
        clock(3.0)
    timer.stop()
    assert timer.seconds == {"act": 2.0, "update": 6.0}
    assert timer.shares() == {"act": 0.25, "update": 0.75}


def test_time_after_stop_is_nobodys(clock):
    timer = PhaseTimer()
    timer.start("act")
    clock(1.0)
    timer.stop()
    clock(100.0)
    timer.stop()
    timer.start("update")
    clock(1.0)
    assert timer.shares() == {"act": 0.5, "update": 0.5}, "the running phase counts up to now"
    assert timer.seconds == {"act": 1.0}, "looking does not end the phase"


def test_before_the_first_phase_there_are_no_shares():
    assert PhaseTimer().shares() == {}
