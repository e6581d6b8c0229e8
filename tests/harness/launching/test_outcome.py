"""Who died and how, from what real launchers printed (outputs/; two ranks; paths and the host's name were replaced)."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.launching.outcome import UNKNOWN, Outcome, read_outcome, split_output

OUTPUTS = Path(__file__).parent / "outputs"
HOSTS = ["n1", "n2"]


def outcome_of(name: str, exit_code: int | None = 1) -> Outcome:
    return read_outcome((OUTPUTS / f"{name}.txt").read_text(), exit_code, HOSTS)


@pytest.mark.parametrize(
    ("name", "launcher_code", "code", "said"),
    [
        ("mpirun-exit-3", 3, 3, "rank 1 on n2 ended with exit code 3: warn from 1"),
        ("mpirun-sigkill", 137, 137, "rank 1 on n1 was killed by SIGKILL"),  # mpirun named the host
        ("mpirun-abort", 5, 5, "rank 1 on n2 ended with exit code 5: here 1"),
        ("mpirun-without-finalize", 1, 1, "rank 1 on n1 ended with exit code 1: here 1"),
        (
            "mpirun-exception-in-pieces",
            1,
            1,
            "rank 1 on n2 ended with exit code 1: ValueError: the learning rate is sour",
        ),
        ("gloo-exit-75", 1, 75, "rank 1 on n2 ended with exit code 75: warn from 1"),
        ("gloo-sigkill", 1, 137, "rank 1 on n2 was killed by SIGKILL"),
    ],
)
def test_the_rank_that_died_is_named(name: str, launcher_code: int, code: int, said: str) -> None:
    outcome = outcome_of(name, launcher_code)
    assert (outcome.describe(), outcome.exit_code, outcome.failed_rank) == (said, code, 1)


def test_a_rank_that_only_followed_another_is_not_named() -> None:
    """Rank 1 raised; rank 0's all-reduce failed for it, and rank 0 was gone first: Horovod names rank 0."""
    text = (OUTPUTS / "gloo-follower-named.txt").read_text()
    assert "Process name: 0" in text

    assert outcome_of("gloo-follower-named").describe() == (
        "rank 1 on n2 ended with exit code 1: ValueError: the learning rate is sour"
    )


def test_a_follower_is_named_where_the_other_left_no_trace_and_its_words_say_so() -> None:
    """Rank 1 left by sys.exit, silently; mpirun names rank 0, whose all-reduce failed first."""
    said = outcome_of("mpirun-follower-named").describe()
    assert said.startswith("rank 0 on n1 ended with exit code 1: horovod.common.exceptions.HorovodInternalError")
    assert "caused by an exception on one of the ranks" in said


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("mpirun-no-program", 134, "mpirun was unable to find the specified executable file"),
        ("mpirun-no-host", 255, "ssh: Could not resolve hostname nosuch"),
        ("horovodrun-no-ssh", 1, "RuntimeError: could not connect to some hosts via ssh"),
    ],
)
def test_a_launcher_that_could_not_start_is_named_with_its_reason(name: str, code: int, said: str) -> None:
    outcome = outcome_of(name, code)
    assert outcome.failed_rank is None
    assert outcome.describe().startswith(f"the launcher ended with exit code {code}: {said}")
    assert outcome.last_lines


def test_a_host_that_was_lost_is_named() -> None:
    outcome = outcome_of("mpirun-host-lost", 205)
    assert (outcome.host, outcome.failed_rank, outcome.exit_code) == ("n2", None, 205)
    assert outcome.describe() == "host n2 was lost: its ranks cannot be reached any more"


def test_the_last_lines_are_those_of_the_rank_that_died() -> None:
    assert outcome_of("gloo-exit-75").last_lines == ("warn from 1", "hello from 1")
    assert outcome_of("mpirun-exception-in-pieces").last_lines[-1] == "ValueError: the learning rate is sour"


def test_only_the_last_twenty_lines_are_kept_and_a_longer_traceback_still_has_its_reason() -> None:
    frames = "".join(f"[1,1]<stderr>:  File {number}\n" for number in range(50))
    text = f"[1,1]<stderr>:Traceback (most recent call last):\n{frames}[1,1]<stderr>:KeyError: 'x'\n"
    text += "  Process name: [[1,1],1]\n  Exit code:    1\n"
    outcome = read_outcome(text, 1, HOSTS)
    assert len(outcome.last_lines) == 20
    assert outcome.describe().endswith(": KeyError: 'x'")


def test_a_rank_that_raised_is_named_where_the_launchers_notice_got_lost() -> None:
    traceback = "Traceback (most recent call last):\n[1,1]<stderr>:  File 'x'\n[1,1]<stderr>:KeyError: 'x'\n"
    lost = "[n1:09395] [[18509,0],0] ORTE_ERROR_LOG: Data unpack would read past end of buffer in file show_help.c\n"
    outcome = read_outcome(f"[1,1]<stderr>:{traceback}{lost}", 1, HOSTS)
    assert outcome.describe() == "rank 1 on n2 ended with exit code 1: KeyError: 'x'"
    assert read_outcome(f"[1,1]<stderr>:{traceback}{lost}", 134, HOSTS).failed_rank is None


def test_a_rank_that_refused_its_input_is_heard_where_the_launchers_notice_got_lost() -> None:
    refusal = "harness: rank 1 on n2: algorithm.buffer_size is too large"
    lost = "[n1:19558] [[8344,0],0] ORTE_ERROR_LOG: Out of resource in file show_help.c at line 507\n"
    outcome = read_outcome(f"[1,1]<stderr>:{refusal}[1,1]<stderr>:\n{lost}", 2, HOSTS)
    assert (outcome.exit_code, outcome.failed_rank, outcome.last_lines) == (2, 1, (refusal,))
    assert read_outcome(lost, 2, HOSTS).failed_rank is None


def test_pieces_are_put_together_and_ranks_kept_apart() -> None:
    text = (
        "[1,0]<stdout>:step[1,0]<stdout>: 1[1,1]<stdout>:step 1\r\n"
        "[1,0]<stderr>:a warning\n[1,0]<stdout>:, loss 2[1,0]<stdout>:\n----\nthe launcher\n[1,1]<stdout>:no end"
    )
    launcher, ranks = split_output(text)
    assert launcher == ["----", "the launcher"]
    assert ranks == {0: ["a warning", "step 1, loss 2"], 1: ["step 1", "no end"]}


def test_words_of_a_rank_are_not_taken_for_the_launchers() -> None:
    text = "[1,0]<stdout>:mpirun noticed that process rank 1 with PID 0 on node x exited on signal 9 (Killed).\n"
    assert read_outcome(text, 7, HOSTS).failed_rank is None


def test_a_job_that_ended_well_has_nobody_to_blame() -> None:
    outcome = read_outcome("[1,0]<stdout>:done\n", 0, HOSTS)
    assert outcome == Outcome(0)
    assert outcome.describe() == "ended well"


def test_an_end_that_nobody_saw_is_unknown_unless_the_output_tells() -> None:
    unknown = read_outcome("[1,0]<stdout>:done\n", None, HOSTS)
    assert unknown.exit_code == UNKNOWN
    assert "unknown exit code" in unknown.describe()
    assert outcome_of("mpirun-exit-3", None).exit_code == 3


def test_a_launcher_that_was_killed_is_named_with_the_signal() -> None:
    outcome = read_outcome("", -9, HOSTS)
    assert (outcome.exit_code, outcome.describe()) == (137, "the launcher was killed by SIGKILL")
