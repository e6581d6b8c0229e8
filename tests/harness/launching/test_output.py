"""The reason of a rank that left, in whatever way and whatever it printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.launching import ProcessJob
from harness.launching.outcome import UNKNOWN, read_outcome, split_output
from harness.launching.output import LAST_LINES, LONGEST, TAG
from harness.text import LINES, last_that_fit, one_line, printable

HOSTS = ["n1", "n2"]
EXITED = "\n  Process name: [[1,1],1]\n  Exit code:    {}\n"
FRAMES = 'Traceback (most recent call last):\n  File "bar.py", line 6, in <module>\n    raise ValueError("x")\n'


def by_mpirun(stderr: str, stdout: str = "") -> str:
    """As mpirun shows it: a tag before each line, or what a write left of one."""
    tagged = "".join(f"[1,1]<stdout>:{line}" for line in stdout.splitlines(keepends=True))
    return tagged + "".join(f"[1,1]<stderr>:{line}" for line in stderr.split("\n") for line in (line + "\n",))


def by_gloo(stderr: str, stdout: str = "") -> str:
    """As Horovod shows it: a tag before each line, which ends in a newline or a carriage return."""
    shown = "".join(f"[1]<stdout>:{line}\n" for line in stdout.splitlines())
    for line in stderr.split("\n"):
        *drawn, last = line.split("\r")
        shown += "".join(f"[1]<stderr>:{piece}\r" for piece in drawn) + f"[1]<stderr>:{last}\n"
    return shown


ENDS = {
    "an exception after a bar": (
        f"\repoch 1: 50%|##  | 5/10 [00:01<00:01]{FRAMES}ValueError: exploded",
        "ValueError: exploded",
    ),
    "in a bar that was drawn often": (
        "".join(f"\repoch {i}% |{'#' * 60}| loss=0.1" for i in range(20000)) + f"{FRAMES}ValueError: in the bar",
        "ValueError: in the bar",
    ),
    "sys.exit with a text": ("no data set at /data/mnist", "no data set at /data/mnist"),
    "argparse": (
        "usage: train.py [-h] [--lr LR]\ntrain.py: error: argument --lr: invalid float value: 'fast'",
        "train.py: error: argument --lr: invalid float value: 'fast'",
    ),
    "a message of several lines": (
        f"{FRAMES}RuntimeError: first line\nsecond line: the cause\n  third",
        "RuntimeError: first line second line: the cause third",
    ),
    "an exception of small letters": (
        f"{FRAMES}socket.gaierror: [Errno -2] Name or service not known",
        "socket.gaierror: [Errno -2] Name or service not known",
    ),
    "a syntax error, which has no header": (
        '  File "a.py", line 1\n    def f(:\n          ^\nSyntaxError: invalid syntax',
        "SyntaxError: invalid syntax",
    ),
    "a group": (
        '  + Exception Group Traceback (most recent call last):\n  |   File "a.py", line 1, in <module>\n'
        "  | ExceptionGroup: many (1 sub-exception)\n  +-+---------------- 1 ----------------\n"
        "    | ValueError: one\n"
        "    +------------------------------------",
        "ExceptionGroup: many (1 sub-exception) ValueError: one",
    ),
    "the last of a chain": (
        f"{FRAMES}KeyError: 'a'\n\nDuring handling of the above exception, another exception occurred:\n\n"
        f"{FRAMES}OSError: b",
        "OSError: b",
    ),
    "colours": (f"{FRAMES}\x1b[1;35mValueError\x1b[0m: \x1b[35mred\x1b[0m", "ValueError: red"),
    "a warning before it": (
        "no model.pt in out/\n/lib/x.py:12: UserWarning: this is slow\n  warnings.warn(text)",
        "no model.pt in out/",
    ),
    "C++": (
        "terminate called after throwing an instance of 'std::runtime_error'\n  what():  no device\n"
        "[n2:00123] *** Process received signal ***\n[n2:00123] *** End of error message ***",
        "what(): no device",
    ),
    "the interpreter itself": (
        "Fatal Python error: Segmentation fault\n\nCurrent thread 0x7f (most recent call first):\n  File a.py",
        "Fatal Python error: Segmentation fault",
    ),
    "no words on standard error but those of a bar": ("\r10%\r20%", "step 2"),
}


@pytest.mark.parametrize("shown", [by_mpirun, by_gloo])
@pytest.mark.parametrize("how", ENDS)
def test_the_reason_is_what_the_rank_said(how: str, shown) -> None:
    said, reason = ENDS[how]
    outcome = read_outcome(shown(said, "step 1\nstep 2\n") + EXITED.format(1), 1, HOSTS)
    assert outcome.describe() == f"rank 1 on n2 ended with exit code 1: {reason}"
    assert sum(len(json.dumps(line)) for line in outcome.last_lines) <= LINES


def test_a_rank_that_left_by_a_signal_of_its_own_has_a_reason_and_one_that_was_killed_has_none() -> None:
    notice = "mpirun noticed that process rank 1 with PID 7 on node n2 exited on signal {}.\n"
    said = by_mpirun("double free or corruption (out)")
    assert read_outcome(said + notice.format(6), 134, HOSTS).describe() == (
        "rank 1 on n2 was killed by SIGABRT: double free or corruption (out)"
    )
    assert read_outcome(said + notice.format(9), 137, HOSTS).describe() == "rank 1 on n2 was killed by SIGKILL"


def test_words_on_standard_output_count_where_there_are_none_on_standard_error_lately() -> None:
    early = by_mpirun("I tensorflow: a log line")
    said = early + by_mpirun("", "step 1\nstep 2\nstep 3\nERROR: no licence\n")
    assert read_outcome(said + EXITED.format(3), 3, HOSTS).reason == "ERROR: no licence"


def test_a_rank_that_left_silently_but_for_its_words_is_named_before_one_that_only_followed_it() -> None:
    """Rank 1 left by sys.exit("no data"); rank 0's all-reduce failed for it, and mpirun names rank 0."""
    follower = FRAMES + "horovod.common.exceptions.HorovodInternalError: Horovod has been shut down"
    text = by_mpirun("no data") + by_mpirun(follower).replace("[1,1]", "[1,0]")
    outcome = read_outcome(text + EXITED.format(1).replace(",1],1]", ",1],0]"), 1, HOSTS)
    assert (outcome.failed_rank, outcome.exit_code) == (1, UNKNOWN)
    assert outcome.describe() == "rank 1 on n2 ended with an unknown exit code: no data"


def test_half_a_line_at_the_beginning_of_the_end_is_nobodys() -> None:
    text = "zzzz" * 1000 + "\nssh: no route\n"
    assert "zzz" in (read_outcome(text, 255, HOSTS).reason or "")
    assert read_outcome(text, 255, HOSTS, begun_before=True).reason == "ssh: no route"


HEADER = b"Traceback (most recent call last):\n"
ODD = [b"ValueError: x\n", b"\xff\xfe", b"\x1b[31m", b"  | ", b"  + Exception Group ", b"\x00", b"----\n"]
PIECES = st.one_of(
    st.binary(max_size=80),
    st.sampled_from([b"\r", b"\n", b"\r\n", b"[1,0]<stdout>:", b"[1]<stderr>:", HEADER]),
    st.sampled_from(ODD),
)


@given(st.lists(PIECES, max_size=40))
def test_any_bytes_are_taken_apart(pieces: list[bytes]) -> None:
    text = b"".join(pieces).decode(errors="replace")
    launcher, ranks = split_output(text)
    for lines in ranks.values():
        assert all("\n" not in line and "\r" not in line and len(line) <= LONGEST for line in lines)
    tagged = {int(tag[1]) for tag in TAG.finditer(text)}
    assert set(ranks) <= tagged
    for code in (None, 0, 1, 2, -9, 137):
        outcome = read_outcome(text, code, HOSTS, begun_before=code == 1)
        said = outcome.describe()
        assert said == one_line(said, 10_000), "one line of plain characters"
        assert len(outcome.last_lines) <= LAST_LINES and len(outcome.reason or "") <= 1000
        assert all(line == printable(line) for line in outcome.last_lines)


# what a script prints as whole lines is told as it is, whatever launcher tags it
LINE = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=30).filter(
    lambda line: not TAG.search(line) and "Traceback" not in line
)


@given(st.lists(st.tuples(st.sampled_from([0, 1]), LINE), max_size=20))
def test_whole_lines_come_back_as_they_were(said: list[tuple[int, str]]) -> None:
    for tag in ("[1,{}]<stdout>:", "[{}]<stdout>:"):
        _, ranks = split_output("".join(f"{tag.format(rank)}{line}\n" for rank, line in said))
        assert ranks == {
            rank: [line for of, line in said if of == rank] for rank in (0, 1) if any(of == rank for of, _ in said)
        }


@given(st.lists(st.text(max_size=2000), max_size=30))
def test_last_lines_fit_into_a_database(lines: list[str]) -> None:
    kept = last_that_fit(lines)
    assert len(json.dumps(kept)) <= LINES + 2
    assert kept == tuple(printable(line) for line in lines[len(lines) - len(kept) :])


def test_what_a_rank_said_of_a_job_that_does_not_go_on(tmp_path: Path) -> None:
    """Rank 1 left by sys.exit and waits at MPI's end, for rank 0, which waits for it."""
    saved = {"pid": -1, "run_id": "r", "hosts": [], "output": str(tmp_path / "log"), "output_start": 0}
    (tmp_path / "log").write_text(by_mpirun("no data") + "[1,0]<stdout>:step 1\n")
    assert ProcessJob(saved).complaint() == "rank 1 said: no data"
    (tmp_path / "log").write_text(by_mpirun("a log") + by_mpirun("another").replace("[1,1]", "[1,0]"))
    assert ProcessJob(saved).complaint() is None
    (tmp_path / "log").write_text(by_mpirun("a log") + by_mpirun(f"{FRAMES}KeyError: 1").replace("[1,1]", "[1,0]"))
    assert ProcessJob(saved).complaint() == "rank 0 said: KeyError: 1"
