"""On the PYTHONPATH of a run this makes its clock of the day jump by the seconds that the file of CHAOS_CLOCK holds."""

import os
import time

_file, _time, _time_ns = os.environ.get("CHAOS_CLOCK", ""), time.time, time.time_ns


def _jump() -> float:
    try:
        with open(_file) as file:
            return float(file.read() or 0)
    except OSError:
        return 0.0


if _file:
    time.time = lambda: _time() + _jump()
    time.time_ns = lambda: _time_ns() + int(_jump() * 1e9)
