"""The rank's side of the trial's directory, one rank alone; several ranks are in test_script.py."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch

from harness.distributed.transports.base import Alone
from harness.errors import BadInput
from harness.files import write_json
from harness.reporting import Reporter, Trial


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class SecondRank(Alone):
    """Rank 1 of 2, whose rank 0 says `stop`."""

    rank = 1
    size = 2

    def __init__(self, stop: str | None) -> None:
        self.stop = stop

    def broadcast_(self, tensor: torch.Tensor, root: int = 0) -> torch.Tensor:
        return tensor.fill_(0 if self.stop is None else 1)

    def broadcast_object(self, value: object, root: int = 0) -> object:
        return self.stop


def lines(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "reports.jsonl").read_text().splitlines()]


def test_a_report_is_one_line_with_attempt_and_seed(tmp_path):
    reporter = Reporter(Trial(tmp_path, attempt=2, seed=1), Alone())
    reporter.report(1, 10, env_steps=500)
    reporter.report(2, torch.tensor(12.5))
    assert lines(tmp_path) == [
        {"step": 1, "value": 10.0, "env_steps": 500, "attempt": 2, "seed": 1},
        {"step": 2, "value": 12.5, "env_steps": None, "attempt": 2, "seed": 1},
    ]
    assert (tmp_path / "reports.jsonl").read_text().endswith("\n")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_null(tmp_path, value):
    Reporter(Trial(tmp_path, 1, 0), Alone()).report(1, value)
    assert lines(tmp_path)[0]["value"] is None


def test_a_report_is_a_single_write_so_that_no_reader_sees_half_a_line(tmp_path, monkeypatch):
    written = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: written.append(data) or write(descriptor, data))
    Reporter(Trial(tmp_path, 1, 0), Alone()).report(1, 1.0)
    assert [data[-1:] for data in written] == [b"\n"]


def test_only_rank_0_writes(tmp_path):
    Reporter(Trial(tmp_path, 1, 0), SecondRank(None)).report(1, 1.0)
    assert list(tmp_path.iterdir()) == []


def test_rank_1_stops_when_rank_0_says_so_and_never_looks_itself(tmp_path):
    write_json(tmp_path / "verdict.json", {"stop": "pruned"})
    assert not Reporter(Trial(tmp_path, 1, 0), SecondRank(None)).should_stop()
    reporter = Reporter(Trial(tmp_path, 1, 0), SecondRank("stopped"))
    assert reporter.should_stop() and reporter.verdict == "stopped"


def test_outside_a_trial_nothing_happens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reporter = Reporter.from_environment(Alone(), env={})
    reporter.report(1, 1.0)
    assert reporter.should_stop() is False and reporter.trial is None and list(tmp_path.iterdir()) == []


def test_the_environment_says_which_trial_attempt_and_seed(tmp_path):
    env = {"HARNESS_TRIAL_DIR": str(tmp_path), "HARNESS_ATTEMPT": "3", "HARNESS_SEED_INDEX": "2"}
    assert Trial.from_environment(env) == Trial(tmp_path, 3, 2)
    assert Trial.from_environment({"HARNESS_TRIAL_DIR": str(tmp_path)}) == Trial(tmp_path, 1, 0)
    with pytest.raises(BadInput, match="HARNESS_ATTEMPT must be a whole number >= 0, got 'two'"):
        Trial.from_environment({**env, "HARNESS_ATTEMPT": "two"})


@pytest.mark.parametrize(
    "verdict,answer",
    [
        ({"stop": "pruned", "attempt": 2, "seed": 1}, "pruned"),
        ({"stop": "pruned"}, "pruned"),
        ({"stop": "pruned", "attempt": 1, "seed": 1}, None),
        ({"stop": "pruned", "attempt": 2, "seed": 0}, None),
        ({"stop": "pruned", "attempt": 3, "seed": 1}, "superseded"),
        ({"stop": None, "attempt": 2, "seed": 1}, None),
        ({}, None),
        ([1], None),
        ({"stop": "pruned", "attempt": "x"}, None),
    ],
)
def test_a_verdict_counts_for_its_attempt_and_seed(tmp_path, verdict, answer):
    write_json(tmp_path / "verdict.json", verdict)
    reporter = Reporter(Trial(tmp_path, attempt=2, seed=1), Alone())
    assert reporter.should_stop() is (answer is not None)
    assert reporter.verdict == answer


def test_a_newer_attempt_in_job_json_supersedes_this_one(tmp_path):
    clock = Clock()
    reporter = Reporter(Trial(tmp_path, attempt=1, seed=0), Alone(), clock)
    write_json(tmp_path / "job.json", {"attempt": 1, "launcher": "mpirun"})
    assert not reporter.should_stop() and not reporter.superseded()
    write_json(tmp_path / "job.json", {"attempt": 2, "launcher": "mpirun"})
    clock.now += 2
    assert reporter.should_stop() and reporter.verdict == "superseded" and reporter.superseded()


def test_the_directory_is_read_at_most_once_a_second(tmp_path):
    clock = Clock()
    reporter = Reporter(Trial(tmp_path, 1, 0), Alone(), clock)
    assert not reporter.should_stop()
    write_json(tmp_path / "verdict.json", {"stop": "pruned"})
    clock.now += 0.9
    assert not reporter.should_stop()
    clock.now += 0.2
    assert reporter.should_stop()
    (tmp_path / "verdict.json").unlink()
    assert reporter.should_stop(), "a verdict once heard stands"


def test_a_directory_that_cannot_be_read_just_now_is_no_verdict(tmp_path):
    (tmp_path / "verdict.json").mkdir()  # opening it fails as a stale handle does: OSError, not FileNotFoundError
    assert not Reporter(Trial(tmp_path, 1, 0), Alone()).should_stop()
