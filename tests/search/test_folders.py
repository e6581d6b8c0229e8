"""Where a study lies and what it leaves there: names of any characters, databases, sizes, what is kept of trials."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import settings as of_hypothesis
from hypothesis import strategies as st

from harness.config import load_run_config, resolve
from harness.errors import BadInput
from search.__main__ import main
from search.config import StudySettings, load_study, no_folder
from search.display import plural, say, write_any_character
from search.space.parse import read_space
from search.study.existing import named
from search.study.objective import Objective
from search.study.storage import open_storage, without_password
from search.study.study_dir import StudyDir
from search.trial_dir import TrialDir
from search.trials.preset_task import PresetTask
from search.trials.retention import shown_size, size_of, tidy
from search.trials.trial_run import TrialRun

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@given(st.text(min_size=1, max_size=60), st.text(min_size=1, max_size=20))
@of_hypothesis(max_examples=25, deadline=None)
def test_a_study_is_found_under_any_name_in_any_folder_and_after_a_move(name: str, folder: str) -> None:
    """Or its name is refused in one line, before anything is made."""
    refused = no_folder(name)
    with pytest.raises(ValueError, match="a folder can have") if refused else contextlib.nullcontext():
        StudySettings(name=name)
    if refused is not None or no_folder(folder) is not None:
        return
    with tempfile.TemporaryDirectory() as scratch:
        place, moved = Path(scratch, folder), Path(scratch, "moved " + folder[:9])
        place.mkdir()
        with contextlib.chdir(place):
            directory = StudyDir(name)
            directory.lock()
            study = optuna.create_study(study_name=name, storage=open_storage(directory.database, create=True))
            study.set_user_attr("id", "1")
            directory.belongs_to("1", without_password(directory.database))
            directory.unlock()
            assert {".lock", "study.db", "study.json"} <= set(os.listdir(directory.path))
        place.rename(moved)
        with contextlib.chdir(moved):
            directory = StudyDir(name)
            assert directory.has_own_database and directory.database != str(place)
            again = optuna.load_study(study_name=directory.study, storage=open_storage(directory.database))
            assert again.user_attrs == {"id": "1"}
            assert named(name) == (name, None)


@pytest.mark.parametrize(
    ("url", "shown", "says"),
    [
        ("postgresql://me:p@ssw0rd@host/db", "postgresql://me:***@host/db", "written %40"),
        ("postgresql://me:pass@host:54x2/db", "postgresql://me:***@host:54x2/db", "the port must be a number"),
        ("postgresql://me:pass@127.0.0.1:99999/db", "postgresql://me:***@127.0.0.1:99999/db", "from 1 to 65535, got"),
        ("postgres://me:pass@127.0.0.1:9/db", "postgres://me:***@127.0.0.1:9/db", "cannot be reached at 127.0.0.1:9"),
        ("postgresql://127.0.0.1:9/db?password=secret", "postgresql://127.0.0.1:9/db?password=***", "be reached"),
        ("sqlite:///:memory:", "sqlite:///:memory:", "kept in memory, and gone"),
        ("sqlite://", "sqlite://", "kept in memory, and gone"),
        ("sqlite:///file:x?mode=memory&uri=true", "sqlite:///file:x?mode=memory&uri=true", "kept in memory"),
        ("me:secret@host/db", "me:secret@host/db", "is no database URL"),
        ("", "", "is no database URL"),
        ("://x", "://x", "is no database URL"),
    ],
)
def test_a_url_that_cannot_be_is_one_line_that_shows_no_password(url: str, shown: str, says: str) -> None:
    assert without_password(url) == shown
    with pytest.raises(BadInput) as refused:
        open_storage(url)
    line = str(refused.value)
    assert says in line and "\n" not in line and shown in line
    assert not any(secret in line for secret in ("p@ss", "ssw0rd", "pass@", "secret@", "=secret")) or "://" not in url


@given(st.text(max_size=40), st.text(min_size=1, max_size=20))
@of_hypothesis(max_examples=100, deadline=None)
def test_no_password_is_shown_whatever_it_is_made_of(rest: str, password: str) -> None:
    after = rest.replace("@", "")
    shown = without_password(f"postgresql://user:<{password}>@host/{after}")
    assert shown.startswith("postgresql://user:***@host/") and "<" not in shown.removesuffix(after)


def run_of(trial: optuna.Trial, objective: Objective, directory: Path) -> TrialRun:
    """A trial whose job does nothing but send what a test writes into its directory."""
    run = TrialRun(trial, {}, TrialDir(directory), None, objective, None)  # type: ignore[arg-type]
    run._run = SimpleNamespace(heard=lambda: None, asked=None, ask_to_stop=lambda why: None)  # type: ignore[assignment]
    return run


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=5), st.lists(st.integers(), max_size=2),
    st.sampled_from([10**400, -(10**400), 2**31, 2**63, -1, 0, "1", 1e308]),
)  # fmt: skip


@given(st.lists(st.tuples(st.one_of(st.integers(-2, 5), ANYTHING), ANYTHING), max_size=6), st.sampled_from([None, 3]))
@of_hypothesis(max_examples=200, deadline=None)
def test_whatever_a_script_reports_is_kept_or_left_out_with_a_word(reports: list[Any], evaluations: int | None) -> None:
    trial = optuna.create_study().ask()
    with tempfile.TemporaryDirectory() as scratch:
        lines = [json.dumps({"step": step, "value": value, "attempt": 1, "seed": 0}) for step, value in reports]
        Path(scratch, "reports.jsonl").write_text("".join(f"{line}\n" for line in lines))
        run = run_of(trial, Objective((1,), evaluations, "median"), Path(scratch))
        run._read_reports()
    kept = trial.storage.get_trial(trial._trial_id).intermediate_values
    assert kept == run.reports and all(math.isfinite(value) for value in kept.values())
    most = 2**31 - 1 if evaluations is None else evaluations
    first: dict[int, Any] = {}
    for step, value in reports:
        if isinstance(step, int) and not isinstance(step, bool):
            first.setdefault(step, value)
    for step, value in first.items():
        sound = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e308
        if 0 <= step <= most and sound:
            assert kept[step] == value
        elif sound:
            assert run.notices and "it is left out" in run.notices[0]


def test_evaluations_counted_from_0_are_kept_and_a_value_that_is_not_finite_is_heard(tmp_path: Path) -> None:
    trial = optuna.create_study().ask()
    (tmp_path / "reports.jsonl").write_text('{"step": 0, "value": null}\n{"step": 1, "value": 2.0}\n')
    run = run_of(trial, Objective((1,), None, "median"), tmp_path)
    run._read_reports()
    assert run.diverged == "evaluation 0 gave a value that is not finite" and run.reports == {1: 2.0}


def test_seeds_counted_from_0_do_not_share_steps() -> None:
    objective = Objective((1, 2), 3, "mean")
    steps = [objective.step(seed, evaluation) for seed in (0, 1) for evaluation in (0, 1, 2)]
    assert len(set(steps)) == 6 and objective.step(0, 4) is None and objective.step(0, -1) is None


def checkpoints_in(run: Path) -> Path:
    """As `harness train` leaves them: two, the older one the best, and 1 MB of replay memory."""
    folder = run / "checkpoints"
    for step in ("step-000000100", "step-000000200"):
        (folder / step).mkdir(parents=True)
        (folder / step / "manifest.json").write_text("{}")
        (folder / step / "state.pt").write_bytes(bytes(1000))
    (folder / "latest").symlink_to("step-000000200")
    (folder / "best").symlink_to("step-000000100")
    (folder / "replay").mkdir()
    (folder / "replay" / "0.pt").write_bytes(bytes(1_000_000))
    (run / "result.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("keep", "stays"),
    [
        ("everything", ["best", "latest", "replay", "step-000000100", "step-000000200"]),
        ("checkpoints", ["best", "latest", "step-000000100", "step-000000200"]),
        ("best", ["best", "latest", "step-000000100"]),
        ("results", None),
    ],
)
def test_what_is_kept_of_an_ended_trial(keep: str, stays: list[str] | None, tmp_path: Path) -> None:
    folder = checkpoints_in(tmp_path / "seed-0")
    own = tmp_path / "seed-1" / "checkpoints" / "replay"
    own.mkdir(parents=True)
    before = size_of(tmp_path)
    tidy(TrialDir(tmp_path), keep)
    assert (sorted(os.listdir(folder)) if folder.exists() else None) == stays
    assert (tmp_path / "seed-0/result.json").exists() and own.is_dir(), "a command's own folders are its user's"
    assert before - size_of(tmp_path) >= (0 if keep == "everything" else 1_000_000)
    if keep == "best":
        assert (folder / "latest" / "state.pt").exists()


def test_sizes_and_counts_are_shown_as_people_say_them() -> None:
    assert [shown_size(size) for size in (0, 999, 1500, 62_400_000, 7e13)] == [
        "0 bytes", "999 bytes", "1.5 KB", "62 MB", "70000 GB",
    ]  # fmt: skip
    assert (plural(1, "rank"), plural(0, "slot"), plural(2, "trial")) == ("1 rank", "0 slots", "2 trials")


def test_none_is_a_value_of_settings_that_may_be_none_and_a_config_repeats_it() -> None:
    config = load_run_config("ppo-cartpole", ["algorithm.max_grad_norm=none", "algorithm.target_kl=none"])
    assert (config.algorithm.max_grad_norm, config.algorithm.target_kl) == (None, None)  # type: ignore[attr-defined]
    table = config.to_table()
    assert table["algorithm"]["max_grad_norm"] == "none" and "target_kl" not in table["algorithm"]
    assert resolve(table) == config
    with pytest.raises(BadInput, match="algorithm.gamma must be a valid number.*got 'none'"):
        load_run_config("ppo-cartpole", ["algorithm.gamma=none"])
    assert load_study("ppo-cartpole", ["study.pruner=none"]).study.pruner.name == "none"


def test_none_is_a_choice_of_a_preset() -> None:
    norm = {"choices": ["none"]}
    space = read_space({"algorithm.target_kl": {"choices": ["none", 0.01]}, "algorithm.max_grad_norm": norm})
    task = PresetTask("ppo-cartpole", {})
    task.check(space, 1)
    settings = space.settings({"algorithm.target_kl": "none", "algorithm.max_grad_norm": "none"})
    assert 'max_grad_norm = "none"' in task.describe(settings, 0)


def test_what_is_checked_is_what_would_run(tmp_path: Path) -> None:
    """A preset that does not fit by itself is taken where the space always sets what fits; another is refused."""
    preset = tmp_path / "base.toml"
    preset.write_text(
        'run.steps = 4_096\nenv = {id = "CartPole-v1", count = 1}\n'
        'algorithm = {name = "ppo", rollout_steps = 32, minibatch_size = 256}\n'
    )
    sizes = {"algorithm.minibatch_size": {"choices": [64, 128]}, "algorithm.rollout_steps": {"choices": [256, 512]}}
    PresetTask(str(preset), {}).check(read_space(sizes), 1)
    with pytest.raises(BadInput, match="minibatch"):
        PresetTask(str(preset), {}).check(read_space({"optimizer.lr": {"low": 0.1, "high": 0.2}}), 1)


def with_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str) -> io.BytesIO:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, write_through=True))
    return written


def test_a_narrow_encoding_ends_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    written = with_encoding(monkeypatch, "ascii")
    say("confirmed: 3 ± 1 of Müller")
    write_any_character()
    print("0.5 ± 0.1")
    assert written.getvalue() == b"confirmed: 3 +- 1 of M\\xfcller\n0.5 +- 0.1\n"


def test_a_reader_that_has_read_enough_ends_a_command_quietly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as nobody, contextlib.redirect_stdout(nobody):
        assert main(["list"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"low": 0.0, "high": 1.0, "step": 0.3}, "0.3 does not lead from low = 0.0 to high = 1.0: set high = 0.9"),
        ({"low": 1, "high": 10, "step": 4}, "set high = 9"),
        ({"min": 0, "max": 1}, "space.x.min is no setting; the least value is called low, the greatest high"),
        ({"values": [1, 2]}, "space.x.values is no setting; a list of values is called choices"),
        ([1, 2], "must be a table such as {choices = [1, 2]}"),
        ({"low": 0.0, "high": 1.0, "log": True}, "space.x.low must be > 0 with log = true, got 0.0"),
        ({"low": 0.1, "high": 1.0, "log": True, "step": 0.1}, "it cannot have a step"),
        ({"low": 0.1, "high": 1.0, "step": 0}, "space.x.step must be > 0, got 0"),
    ],
)
def test_a_line_of_the_space_that_cannot_be_says_how_it_is_written(line: Any, says: str) -> None:
    with pytest.raises(BadInput) as refused:
        read_space({"x": line})
    assert says in str(refused.value)
