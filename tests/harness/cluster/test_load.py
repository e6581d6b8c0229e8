"""What other work takes of a host is told where it leaves too few cores."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from harness.cluster.load import LoadMeter, Usage, busy_notice

BOTH = (0, 1)


@pytest.mark.parametrize(
    "usages, threads, told",
    [
        # (seconds that both cores worked, those of the ranks) over 2 s
        ([(2.0, 1.0), (2.0, 1.0)], 1, None),
        ([(4.0, 1.0), (4.0, 1.0)], 1, "other work takes 1.0 of 2 cores of here, where 2 ranks want 2"),
        ([(4.0, 2.0)], 1, None),
        ([(4.0, 0.8)], 1, "other work takes 1.6 of 2 cores of here, where this rank wants 1"),
        ([(4.0, 2.0)], 2, "other work takes 1.0 of 2 cores of here, where this rank wants 2"),
        ([(2.6, 1.0), (2.6, 1.0)], 1, None),
    ],
)
def test_it_is_told_where_too_few_cores_are_left(
    usages: list[tuple[float, float]], threads: int, told: str | None
) -> None:
    notice = busy_notice([Usage("here", BOTH, 2.0, busy, own) for busy, own in usages], threads)
    assert (notice is None) == (told is None) and (told is None or (notice or "").startswith(told)), notice


def test_ranks_that_are_bound_share_nothing_and_a_short_look_says_nothing() -> None:
    bound = [Usage("here", (rank,), 2.0, 1.9, 1.9) for rank in range(2)]
    assert busy_notice(bound, 1) is None
    crowded = [*bound[:1], Usage("here", (1,), 2.0, 2.0, 0.6)]
    assert str(busy_notice(crowded, 1)).startswith("other work takes 0.7 of one core of here, where this rank wants 1")
    assert busy_notice([Usage("here", BOTH, 0.05, 0.1, 0.0)], 2) is None


def test_a_busy_loop_beside_is_seen() -> None:
    meter = LoadMeter()
    with subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) as loop:
        used, deadline = 0.0, time.monotonic() + 60
        while used < 0.5 and time.monotonic() < deadline:
            time.sleep(0.02)
            used = psutil.Process(loop.pid).cpu_times().user
        usage = meter.usage("here")
        loop.kill()
    assert usage.busy >= used - 0.1 and usage.own < usage.wall
