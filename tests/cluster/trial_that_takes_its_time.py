"""A trial's command for tests of the search: reports `1 - |x - 0.5|`, less for each step before the last."""

from __future__ import annotations

import sys
import time

from harness import reporting

x, steps, seconds = float(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
for step in range(1, steps + 1):
    until = time.monotonic() + seconds
    while time.monotonic() < until and not reporting.should_stop():
        time.sleep(min(0.2, seconds))
    if reporting.should_stop():
        break
    reporting.report(step, 1 - abs(x - 0.5) - (steps - step))
