"""A study and what others do to it while it runs: told, queued, deleted, moved and copied, by Optuna's own means."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from harness.launching.processes import processes_of
from search import StudyResult, run_study
from search.__main__ import main
from search.study.storage import open_storage, sqlite_url
from search.study.study import OWNER
from tests.search.conftest import Workplace

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
NASTY = "a b#c?d%20é;'"
SLOW = {"steps": 600, "pause": 0.1}


class Meddler:
    """A display that does something at an event: what others do while a study runs, at a known moment."""

    def __init__(self, **at: Callable[[], object]) -> None:
        self.at = {begins.replace("_", " "): act for begins, act in at.items()}
        self.events: list[str] = []

    def event(self, text: str) -> None:
        self.events.append(text)
        for begins in [begins for begins in self.at if text.startswith(begins)]:
            self.at.pop(begins)()

    def rows(self, rows: Any, summary: str) -> None: ...

    def close(self) -> None: ...

    def said(self, text: str) -> bool:
        return any(text in event for event in self.events)


def run(place: Workplace, display: Meddler, *overrides: str) -> StudyResult:
    """One trial after the other."""
    place.slots(1)
    with contextlib.chdir(place.path):
        return run_study("study.toml", ["trial.ranks=1", *overrides], display=display, hostfile="hosts")


def study_of(place: Workplace, name: str = "s") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=open_storage(sqlite_url(place.path / f"studies/{name}/study.db")))


def left_of(place: Workplace, trial: int) -> list[Any]:
    job = json.loads((place.path / f"studies/s/trial-{trial:05d}/job.json").read_text())
    return list(processes_of(job["seeds"]["0"]["run_id"]))


def command(place: Workplace, *words: str) -> tuple[int, str]:
    """A looking command, in this process; its exit code and what it printed."""
    printed = io.StringIO()
    with contextlib.chdir(place.path), redirect_stdout(printed), redirect_stderr(printed):
        code = main(words)
    return code, printed.getvalue()


def test_trials_told_or_stopped_by_others_end_their_jobs_alone(workplace: Workplace) -> None:
    workplace.plan(all=SLOW, t3={"steps": 2})

    def tell(number: int, **what: Any) -> Callable[[], object]:
        return lambda: study_of(workplace).tell(number, **what)

    display = Meddler(
        trial_0_started=tell(0, state=TrialState.FAIL),
        trial_1_started=tell(1, values=7.0),
        trial_2_started=lambda: command(workplace, "stop", "--study", "s", "--trial", "2"),
        trial_4_started=lambda: command(workplace, "stop", "--study", "study.toml"),
    )
    result = run(workplace, display, "study.trials=9")

    trials = study_of(workplace).get_trials()
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "PRUNED", "COMPLETE", "FAIL", "WAITING"]
    assert trials[1].value == 7.0
    assert trials[2].user_attrs["reason"] == "ended by `search stop`"
    assert display.said("trial 0 was finished from outside as fail: its job was ended")
    assert display.said("trial 1 was finished from outside as complete with value 7: its job was ended")
    assert (result.ending.status, result.ending.reason) == (
        "stopped", "stopped by `search stop`; run it again to resume",
    )  # fmt: skip
    assert not any(left_of(workplace, number) for number in range(5))

    code, printed = command(workplace, "stop", "--study", "s")
    assert code == 2 and "study s is not running here" in printed


def test_a_study_that_is_deleted_while_it_runs_ends_its_jobs_and_says_so(workplace: Workplace) -> None:
    workplace.plan(all=SLOW)
    url = sqlite_url(workplace.path / "studies/s/study.db")
    display = Meddler(
        trial_0_started=lambda: optuna.delete_study(study_name="s", storage=open_storage(url)),
    )
    result = run(workplace, display, "study.trials=3")

    assert result.ending.status == "failed" and "was deleted from its storage while it ran" in result.ending.reason
    assert not left_of(workplace, 0)
    assert optuna.get_all_study_names(open_storage(url)) == []


def test_queued_values_that_cannot_be_suggested_cost_one_trial_each_and_first_settings_are_tried_first(
    workplace: Workplace,
) -> None:
    workplace.study_file(
        study={"first": [{"x": 1.25, "hidden": [64, 64]}, {"hidden": [32, 32]}]},
        trial={"command": ["python", "train.py", "{x}", "{seed}", "{hidden}"], "ranks": 1},
        space={"hidden": {"choices": [[32, 32], [64, 64]]}},
    )
    queued = [{"hidden": [64, 64]}, {"x": 5.0}, {"xx": 1.0}, {"x": "1.5"}, {"x": 1.5}]

    def enqueue() -> None:
        for params in queued:
            study_of(workplace).enqueue_trial(params)
        elsewhere = {"x": FloatDistribution(0.0, 9.0), "other": FloatDistribution(0.0, 1.0)}
        added = create_trial(params={"x": 9.0, "other": 0.5}, distributions=elsewhere, value=1e9)
        study_of(workplace).add_trial(added)

    display = Meddler(study_s_begins=enqueue)
    result = run(workplace, display, "study.trials=4", "confirm.seeds=1")  # the one that was added is one of them

    trials = study_of(workplace).get_trials()
    assert trials.pop(5).value == 1e9 and display.said("trial 5, the best, cannot be confirmed: x = 9")
    assert [trial.state.name for trial in trials] == ["FAIL"] * 4 + ["COMPLETE"] * 3
    reasons = [trial.user_attrs["reason"] for trial in trials[:4]]
    assert reasons == [
        "hidden = [64, 64]: it may be one of 32x32, 64x64",
        "x = 5: it may be a number from 1 to 2",
        "xx is no parameter of the space; did you mean x?",
        "x = 1.5: it may be a number from 1 to 2",
    ]
    assert [trial.params.get("x") for trial in trials[4:6]] == [1.5, 1.25]
    assert [trial.params["hidden"] for trial in trials[5:]] == ["64x64", "32x32"]
    assert result.ending.status == "done" and sum(result.trials.values()) == 8


def test_time_limits_bound_a_trial_and_a_study(workplace: Workplace) -> None:
    workplace.plan(t0=SLOW, t2=SLOW)
    run(workplace, Meddler(), "study.trials=2", "trial.max_total_minutes=0.03")
    trials = study_of(workplace).get_trials()
    assert [trial.state.name for trial in trials] == ["PRUNED", "COMPLETE"]
    assert trials[0].user_attrs["reason"] == "took more than 0.03 minutes (trial.max_total_minutes)"

    result = run(workplace, Meddler(), "study.trials=1", "study.max_minutes=0.03")
    assert result.ending.status == "stopped" and "(study.max_minutes)" in result.ending.reason
    assert [trial.state.name for trial in study_of(workplace).get_trials()][2:] == ["FAIL", "WAITING"]


def as_if_its_driver_died(place: Workplace) -> None:
    """A second trial as a driver leaves it that was killed with its job: RUNNING, noted by its whole path."""
    study = study_of(place)
    trial = study.ask()
    trial.suggest_float("x", 1.0, 2.0)
    folder = place.path / "studies/s"
    shutil.copytree(folder / "trial-00000", folder / "trial-00001", ignore=shutil.ignore_patterns("result.json"))
    (folder / "trial-00001/reports.jsonl").unlink()
    trial.set_user_attr(OWNER, "/where/it/was/studies/s/trial-00001")
    trial.set_user_attr("settings", trial.params)


def test_a_study_may_be_moved_copied_and_renamed_into_folders_of_any_name(workplace: Workplace, tmp_path: Path) -> None:
    place = Workplace(tmp_path / NASTY, workplace.environment)
    place.path.mkdir()
    for name in ("train.py", "plan.json", "study.toml"):
        shutil.copy(tmp_path / name, place.path)
    run(place, Meddler(), "study.trials=1")
    as_if_its_driver_died(place)
    assert str(tmp_path) not in json.dumps(study_of(place).get_trials()[0].user_attrs)

    copy = Workplace(tmp_path / "copy", workplace.environment)
    shutil.copytree(place.path, copy.path)
    display = Meddler()
    run(copy, display, "study.trials=1")
    states = [trial.state.name for trial in study_of(copy).get_trials()]
    assert states == ["COMPLETE", "FAIL", "COMPLETE"]
    assert display.said("trial 1 runs where this study was copied from: its parameters are queued again")
    assert [trial.state.name for trial in study_of(place).get_trials()] == ["COMPLETE", "RUNNING"]

    moved = Workplace(tmp_path / "moved ü", workplace.environment)
    place.path.rename(moved.path)
    run(moved, Meddler(), "study.trials=2")
    assert [trial.state.name for trial in study_of(moved).get_trials()] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert command(moved, "retry", "--study", "s") == (
        0, "1 failed trial is queued again; the next `search run` takes them first\n",
    )  # fmt: skip
    assert len(study_of(copy).get_trials()) == 3

    (moved.path / "studies/s").rename(moved.path / "studies/renamed study")
    code, table = command(moved, "status", "--study", "renamed study")
    assert code == 0 and "4 trials, maximize" in table and " in studies/renamed study" in table
    code, table = command(moved, "list")
    assert code == 0 and "renamed study" in table and "maximize" in table
    code, text = command(moved, "export", "--study", "studies/renamed study")
    header, first, *_ = text.splitlines()
    assert header == "trial,state,outcome,value,step,seconds,began,ended,reason,x"
    assert first.startswith("0,complete,done")
    code, text = command(moved, "export", "--study", "renamed study", "--format", "json")
    assert code == 0 and [trial["state"] for trial in json.loads(text)] == ["complete", "fail", "complete", "waiting"]

    code, text = command(moved, "delete", "--study", "renamed study")
    assert code == 2 and "would be deleted for good: give --yes" in text and text.count("\n") == 1
    code, text = command(moved, "delete", "--study", "renamed study", "--yes")
    assert code == 0 and not (moved.path / "studies/renamed study").exists()
