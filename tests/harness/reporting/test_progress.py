from __future__ import annotations

import dataclasses
import io
import os
import pty
import re
import subprocess
import sys

import pytest

from harness.cluster.place import Place
from harness.reporting import Progress, Status, open_display, open_progress, read_progress
from harness.reporting.progress import FileProgress, LiveProgress, PlainProgress
from harness.reporting.status import as_clock
from tests.conftest import files_of_at_most

STATUS = Status(
    env_steps=45_056,
    total_steps=100_000,
    env_steps_per_second=12_345.6,
    seconds=3.7,
    ranks=2,
    sync_path="horovod",
    eta_seconds=75.2,
    return_mean=203.44,
    eval_mean=480.1,
    best=495.0,
    phase_shares={"act": 0.55, "update": 0.45},
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def place(rank: int, launcher: str) -> Place:
    return Place(rank, 1 if launcher == "none" else 2, rank, 2, "host", launcher)


def test_a_line_tells_steps_speed_returns_time_left_and_phases():
    stream = io.StringIO()
    with PlainProgress(stream) as progress:
        progress.say("2 ranks, path horovod")
        progress.update(STATUS)
    assert stream.getvalue().splitlines() == [
        "2 ranks, path horovod",
        "45,056 of 100,000 steps (45 %), 12,346 steps/s, return 203.4, evaluation 480.1, best 495, 1:15 left, "
        "act 55% update 45%",
    ]


def test_lines_come_every_ten_seconds_and_at_evaluations_but_not_twice_in_a_second():
    stream, clock = io.StringIO(), Clock()
    progress = PlainProgress(stream, clock)
    shown = []
    for quarter in range(0, 120):
        clock.now = quarter / 4
        evaluated = None if clock.now < 3.5 else 1.0 if clock.now < 3.75 else 2.0  # evaluations at 3.5 s and 3.75 s
        before = stream.getvalue()
        progress.update(dataclasses.replace(STATUS, eval_mean=evaluated))
        if stream.getvalue() != before:
            shown.append(clock.now)
    assert shown == [3.5, 4.5, 14.5, 24.5]


def test_the_last_status_is_always_told():
    stream, clock = io.StringIO(), Clock()
    progress = PlainProgress(stream, clock)
    progress.update(dataclasses.replace(STATUS, eval_mean=None, env_steps=99_840))
    assert stream.getvalue() == ""
    progress.close()
    progress.close()
    assert [line.split(" steps")[0] for line in stream.getvalue().splitlines()] == ["99,840 of 100,000"]


def test_the_parent_reads_what_rank_0_wrote_at_most_once_a_second(tmp_path):
    clock = Clock()
    assert read_progress(tmp_path) == (None, [])
    progress = FileProgress(tmp_path, clock)
    progress.update(STATUS)
    assert read_progress(tmp_path) == (STATUS, [])
    later = dataclasses.replace(STATUS, env_steps=50_000)
    clock.now = 0.9
    progress.update(later)
    assert read_progress(tmp_path) == (STATUS, [])
    clock.now = 1.1
    progress.update(later)
    assert read_progress(tmp_path) == (later, [])
    last = dataclasses.replace(STATUS, env_steps=100_000)
    progress.update(last)
    progress.close()
    assert read_progress(tmp_path) == (last, [])


def test_a_full_disk_costs_the_picture_not_the_run(tmp_path):
    progress = FileProgress(tmp_path, Clock())
    with files_of_at_most(0):
        progress.say("2 ranks")
        progress.update(STATUS)
    progress.say("resumed")
    assert read_progress(tmp_path) == (STATUS, ["2 ranks", "resumed"])


def test_what_rank_0_says_reaches_the_parent_at_once(tmp_path):
    progress = FileProgress(tmp_path, Clock())
    progress.say("2 ranks, path horovod")
    assert read_progress(tmp_path) == (None, ["2 ranks, path horovod"])
    progress.update(STATUS)
    progress.say("resumed from step 512")
    assert read_progress(tmp_path) == (STATUS, ["2 ranks, path horovod", "resumed from step 512"])


def test_a_process_of_its_own_on_a_terminal_draws_and_gives_the_terminal_back():
    code = (
        "from harness.reporting import open_display\n"
        "from tests.harness.reporting.test_progress import STATUS\n"
        "with open_display('ppo-cartpole') as progress:\n"
        "    progress.say('2 ranks, path horovod')\n"
        "    progress.update(STATUS)\n"
    )
    parent, child = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=child, env=env)
    os.close(child)
    seen = b""
    while True:
        try:
            data = os.read(parent, 4096)
        except OSError:  # the terminal's other end is closed
            break
        if not data:
            break
        seen += data
    os.close(parent)
    assert process.wait(timeout=300) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode())
    for part in ("ppo-cartpole · 2 ranks · horovod", "45,056 of 100,000 steps", "12,346 steps/s", "return 203.4"):
        assert part in text
    for part in ("evaluation 480.1", "best 495", "1:15 left", "act", "55%", "2 ranks, path horovod"):
        assert part in text
    assert seen.rindex(b"\x1b[?25h") > seen.rindex(b"\x1b[?25l"), "the cursor is shown again"


def test_a_dumb_terminal_and_a_file_get_lines(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(open_display("run", Terminal()), PlainProgress)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(open_display("run", io.StringIO()), PlainProgress)
    live = open_display("run", Terminal())
    live.close()
    assert isinstance(live, LiveProgress)


def test_a_rank_under_a_launcher_prints_lines_though_it_sees_a_terminal(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(open_progress("run", place(0, "mpi"), tmp_path), PlainProgress)
    assert isinstance(open_progress("run", place(0, "gloo"), tmp_path), PlainProgress)


def test_rank_1_tells_nothing(tmp_path, capsys):
    progress = open_progress("run", place(1, "mpi"), tmp_path, has_parent=True)
    assert type(progress) is Progress
    progress.say("line")
    progress.update(STATUS)
    progress.close()
    assert capsys.readouterr().out == "" and list(tmp_path.iterdir()) == []


def test_under_a_parent_rank_0_leaves_the_file_and_prints_lines_to_the_jobs_output(tmp_path, capsys):
    with open_progress("run", place(0, "mpi"), tmp_path, has_parent=True) as progress:
        progress.update(STATUS)
    assert read_progress(tmp_path) == (STATUS, [])
    assert "45,056 of 100,000 steps" in capsys.readouterr().out


@pytest.mark.parametrize("seconds,text", [(0, "0:00"), (59.6, "1:00"), (75.2, "1:15"), (3600, "1:00:00"), (-3, "0:00")])
def test_times_are_read_as_on_a_clock(seconds, text):
    assert as_clock(seconds) == text
