"""The driver's side of the files that it shares with the ranks; the ranks' side is the real one."""

from __future__ import annotations

import math
from pathlib import Path

from harness.distributed.transports.base import Alone
from harness.files import append_json_line, write_json
from harness.reporting import Reporter
from search.trial_dir import Report, Result, TrialDir, open_trial_dir


def rank_of(trial: TrialDir, seed: int = 0) -> Reporter:
    """Rank 0 of this trial, as the environment that the driver gives it makes it."""
    trial.path.mkdir(exist_ok=True)
    reporter = Reporter.from_environment(Alone(), trial.environment(seed))
    reporter.interval = 0.0
    return reporter


def test_reports_come_once_each_and_non_finite_ones_as_none(tmp_path: Path) -> None:
    trial = TrialDir(tmp_path / "trial-00000")
    rank = rank_of(trial)
    rank.report(1, 0.5)
    rank.report(1, 0.7)
    rank.report(2, math.nan)

    assert trial.new_reports() == [Report(0, 1, 0.5), Report(0, 2, None)]
    rank.report(3, math.inf)
    assert trial.new_reports() == [Report(0, 3, None)]
    assert trial.new_reports() == []


def test_a_line_counts_once_it_is_whole(tmp_path: Path) -> None:
    trial = TrialDir(tmp_path)
    path = tmp_path / "reports.jsonl"
    path.write_text('{"step": 1, "value": 2.0, "attempt": 1}\n{"step": 2, "val')
    assert trial.new_reports() == [Report(0, 1, 2.0)]
    with path.open("a") as out:
        out.write('ue": 3.0, "attempt": 1}\n')
    assert trial.new_reports() == [Report(0, 2, 3.0)]


def test_the_same_step_of_another_seed_is_another_report(tmp_path: Path) -> None:
    trial = TrialDir(tmp_path)
    rank_of(trial, 0).report(1, 1.0)
    rank_of(trial, 1).report(1, 2.0)
    assert trial.new_reports() == [Report(0, 1, 1.0), Report(1, 1, 2.0)]


def test_what_an_older_attempt_left_does_not_exist(tmp_path: Path) -> None:
    older, newer = TrialDir(tmp_path, 1), TrialDir(tmp_path, 2)
    rank_of(older).report(1, 1.0)
    write_json(tmp_path / "seed-0" / "result.json", {"status": "done", "value": 1.0, "attempt": 1})
    older.write_verdict("pruned", 0)

    assert newer.new_reports() == [] and newer.result(0) is None and newer.read_verdict(0) is None
    rank_of(newer).report(1, 2.0)
    assert newer.new_reports() == [Report(0, 1, 2.0)]


def test_lines_that_are_no_reports_are_passed_over(tmp_path: Path) -> None:
    trial = TrialDir(tmp_path)
    for line in ("text", [1], {"value": 1.0}, {"step": 0.0, "value": 1.0}, {"step": "1", "value": 1}, {"step": True}):
        append_json_line(tmp_path / "reports.jsonl", line)
    assert trial.new_reports() == []


def test_a_verdict_reaches_the_ranks_of_its_seed_alone(tmp_path: Path) -> None:
    trial = TrialDir(tmp_path)
    trial.write_verdict("pruned", 1)
    assert rank_of(trial, 0).poll() is None
    assert rank_of(trial, 1).poll() == "pruned"
    assert (trial.read_verdict(0), trial.read_verdict(1)) == (None, "pruned")


def test_a_verdict_on_seeds_that_run_at_once_is_for_all_until_it_is_taken_back(tmp_path: Path) -> None:
    trial = TrialDir(tmp_path, parallel=True)
    trial.write_verdict("stopped", 0)
    assert [rank_of(trial, seed).poll() for seed in (0, 1)] == ["stopped", "stopped"]
    trial.take_back_verdict()
    assert rank_of(trial, 1).poll() is None


def test_results_are_read_whatever_they_lack(tmp_path: Path) -> None:
    trial = TrialDir(tmp_path)
    assert trial.result(0) is None
    write_json(tmp_path / "seed-0" / "result.json", {"status": "failed", "divergence": True, "reason": "loss"})
    assert trial.result(0) == Result("failed", None, "loss", True)
    (tmp_path / "seed-0" / "result.json").write_text("{")
    assert trial.result(0) is None


def test_a_restarted_driver_finds_the_jobs_of_each_seed(tmp_path: Path) -> None:
    trial = TrialDir(tmp_path / "trial-00003", 2)
    trial.write_job(0, {"run_id": "a"})
    trial.write_job(1, {"run_id": "b"})

    again = open_trial_dir(trial.path)
    assert (again.attempt, again.jobs) == (2, {0: {"run_id": "a"}, 1: {"run_id": "b"}})
    assert open_trial_dir(tmp_path / "trial-00004").jobs == {}
