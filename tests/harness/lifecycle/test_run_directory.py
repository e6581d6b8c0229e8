"""What an attempt begins from, and where what it does not resume from is left."""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import BadInput
from harness.files import write_json
from harness.lifecycle.checkpoints import checkpoint
from harness.lifecycle.lock import DirectoryLock, check_free
from harness.lifecycle.result import SIMULATORS, Result, failed_result, versions
from harness.lifecycle.run_directory import Start, check_same_run, decisions, prepare, saves
from tests import checkpoints
from tests.multirank.stopped_run import go

STATE = {"module": {"weight": torch.arange(6.0)}}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run with checkpoints of 100, 200 and 300 steps."""
    folder = tmp_path / "run"
    for step in (100, 200, 300):
        save(folder, step)
    (folder / "metrics.jsonl").write_text("{}\n")
    return folder


def save(run_dir: Path, step: int) -> Path:
    config = {"sync": {"path": "mpi"}}
    progress = {"env_steps": step, "seconds": time.monotonic()}
    return checkpoints.save(run_dir / "checkpoints", step, STATE, progress, config=config)


def names(run_dir: Path) -> list[str]:
    return [path.name for path in checkpoint.saved_steps(run_dir / "checkpoints")]


def damage(step: Path) -> None:
    (step / "state.pt").write_bytes(b"")


def test_from_an_older_checkpoint_the_newer_ones_are_set_aside_for_good(run_dir: Path) -> None:
    chosen = run_dir / "checkpoints" / "step-000000100"
    start = prepare(run_dir, str(chosen))
    assert start.checkpoint == chosen and not start.state_alone and names(run_dir) == ["step-000000100"]
    assert sorted(path.name for path in (run_dir / "aside-1").iterdir()) == ["step-000000200", "step-000000300"]
    assert "aside-1" in start.notices[0] and (run_dir / "checkpoints" / "latest").resolve() == chosen
    assert prepare(run_dir, "auto") == Start(chosen, []), "not the newest of the branch that was left"
    assert (run_dir / "metrics.jsonl").exists()


def test_a_damaged_one_is_told_once_and_is_none_of_those_that_are_kept(run_dir: Path) -> None:
    damage(run_dir / "checkpoints" / "step-000000300")
    start = prepare(run_dir, "auto")
    assert start.checkpoint == run_dir / "checkpoints" / "step-000000200"
    assert "step-000000300 is damaged" in start.notices[0]
    assert prepare(run_dir, "auto") == Start(start.checkpoint, []) and names(run_dir) == [
        "step-000000100",
        "step-000000200",
    ]
    assert (run_dir / "aside-1" / "step-000000300").exists()


@pytest.mark.parametrize("how", ["damaged", "from elsewhere"])
def test_what_is_not_gone_on_with_at_all_is_set_aside_with_its_metrics(how: str, run_dir: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "other", 50)
    for path in checkpoint.saved_steps(run_dir / "checkpoints"):
        damage(path)
    start = prepare(run_dir, "auto" if how == "damaged" else str(other))
    assert start.checkpoint == (None if how == "damaged" else other)
    assert ("starts over" if how == "damaged" else "resumes from elsewhere") in start.notices[-1]
    assert "aside-1" in start.notices[-1]
    assert not names(run_dir) and not (run_dir / "metrics.jsonl").exists()
    assert (run_dir / "aside-1" / "metrics.jsonl").exists()
    assert (run_dir / "aside-1" / "checkpoints" / "step-000000300").exists()


def test_what_never_leaves_is_nothing(run_dir: Path) -> None:
    assert prepare(run_dir, "never") == Start(None, [])
    assert not list(run_dir.iterdir())


def test_only_a_save_is_one(run_dir: Path) -> None:
    before = saves(run_dir)
    prepare(run_dir, str(run_dir / "checkpoints" / "step-000000100"))
    assert len(before) == 3 and not saves(run_dir) - before, "setting aside is none"
    save(run_dir, 300)
    assert len(saves(run_dir) - before) == 1, "the same step again is one"


def test_a_save_is_one_wherever_the_file_system_puts_it(run_dir: Path, tmp_path: Path) -> None:
    """Numbers of deleted files and folders are given out again."""
    old, before = run_dir / "checkpoints" / "step-000000300", saves(run_dir)
    shutil.copytree(save(tmp_path / "other", 300), old, dirs_exist_ok=True)
    assert len(saves(run_dir) - before) == 1


def test_from_a_checkpoint_its_own_decisions_are_taken(run_dir: Path) -> None:
    (run_dir / "config.toml").write_text('[sync]\npath = "horovod"\n')
    ours = {"sync": {"path": "auto"}}
    assert decisions(run_dir, ours) == {"sync.path": "horovod"}
    assert decisions(run_dir, ours, str(run_dir / "checkpoints" / "latest")) == {"sync.path": "mpi"}


def test_of_a_checkpoint_that_is_named_and_not_whole_the_state_is_taken(run_dir: Path) -> None:
    part = {"rank": 0, "first": 0, "count": 2, "total": 2, "segments": []}
    lost = {"file": "replay/lost.pt", "bytes": 1, "sha256": "", "first": 0, "ranges": {}}
    parts = [{**part, "segments": [lost]}]
    chosen = checkpoints.save(run_dir / "checkpoints", 400, STATE, {"env_steps": 400}, parts=parts)
    start = prepare(run_dir, str(chosen))
    assert start.checkpoint == chosen and start.state_alone and "all that is taken of it" in start.notices[0]
    assert prepare(run_dir, "auto").checkpoint == chosen.with_name("step-000000300"), "a whole one comes first"


def test_versions_are_those_of_the_simulators_too_that_are_installed() -> None:
    installed = {each.metadata["Name"].lower(): each.version for each in importlib.metadata.distributions()}
    expected = {name: installed[name] for name in SIMULATORS if name in installed}
    assert {name: version for name, version in versions().items() if name in SIMULATORS} == expected
    assert "torch" in versions()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_without_locks_a_run_goes_on_and_says_so(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(code, "no such luck")

    monkeypatch.setattr(fcntl, "flock", flock)
    if code == errno.EIO:
        with pytest.raises(OSError):
            DirectoryLock(tmp_path).acquire()
        return
    settings = ["ppo-cartpole", "run.steps=256", "evaluation.count=1", "evaluation.episodes=1", "compile.mode=off"]
    assert go(str(tmp_path), [*settings, "evaluation.final_episodes=1"])["status"] == "done"
    check_free(tmp_path)
    line = f"{tmp_path} lies in a file system without locks (no such luck): nothing keeps a second run out of it"
    assert capsys.readouterr().out.count(line) == 1


def test_a_start_whose_ranks_died_before_it_wrote_its_settings_may_be_made_again(tmp_path: Path) -> None:
    died = failed_result("the launcher was killed", None, None, [], ranks=2, seed=1)
    write_json(tmp_path / "result.json", asdict(died))
    check_same_run(tmp_path, {"seed": 1})
    write_json(tmp_path / "result.json", asdict(Result("done", env_steps=100)))
    with pytest.raises(BadInput, match="holds result.json but no config.toml"):
        check_same_run(tmp_path, {"seed": 1})
