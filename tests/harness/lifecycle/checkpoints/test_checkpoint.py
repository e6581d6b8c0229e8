"""Checkpoints are whole or not there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from harness.lifecycle.checkpoints import checkpoint
from harness.lifecycle.run_directory import Start, prepare
from tests.checkpoints import load_newest, save

STATE = {"module": {"weight": torch.arange(6.0)}, "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "lr": 0.1}}


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    save(tmp_path, 1234, STATE, {"iteration": 7, "best": None})
    found = checkpoint.load(tmp_path / "latest")
    assert found is not None and found.progress == {"iteration": 7, "best": None}
    assert torch.equal(found.state["module"]["weight"], STATE["module"]["weight"])  # type: ignore[index]
    assert os.readlink(tmp_path / "latest") == "step-000001234"


@pytest.mark.parametrize("damage", ["flip", "cut", "no manifest", "no state"])
def test_a_damaged_one_is_recognised_and_the_one_before_is_taken(damage: str, tmp_path: Path) -> None:
    save(tmp_path, 1, STATE, {"iteration": 1})
    newest = save(tmp_path, 2, STATE, {"iteration": 2})
    state = newest / "state.pt"
    data = bytearray(state.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        state.write_bytes(data)
    elif damage == "cut":
        state.write_bytes(data[:-1])
    else:
        (newest / ("manifest.json" if damage == "no manifest" else "state.pt")).unlink()
    assert checkpoint.load(newest) is None
    found, damaged = load_newest(tmp_path)
    assert found is not None and found.progress == {"iteration": 1} and damaged == [newest]


def test_one_that_was_being_written_is_not_seen(tmp_path: Path) -> None:
    (tmp_path / ".step-000000009.123").mkdir()
    assert load_newest(tmp_path) == (None, [])


def test_one_that_was_being_replaced_when_the_process_died_gets_its_name_back(tmp_path: Path) -> None:
    saved = save(tmp_path / "checkpoints", 1, STATE, {"iteration": 1})
    saved.rename(saved.with_name(f".{saved.name}.replaced.123"))
    saved.with_name(f".{saved.name}.123").mkdir()
    assert prepare(tmp_path, "auto") == Start(saved, [])
    assert not list(saved.parent.glob(".*"))
    shutil.copytree(saved, saved.with_name(f".{saved.name}.replaced.123"))
    assert prepare(tmp_path, "auto") == Start(saved, []), "the new one was in its place"
    assert not list(saved.parent.glob(".*"))


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in range(1, 6):
        save(tmp_path, step, STATE, {"last": {1: None, 2: 9.0, 3: 9.0}.get(step, float(step))})
        checkpoint.mark_best(tmp_path)
        checkpoint.keep_newest(tmp_path, keep=2)
    assert [path.name for path in checkpoint.saved_steps(tmp_path)] == [f"step-{step:09d}" for step in (2, 4, 5)]
    assert checkpoint.load(tmp_path / "best") is not None


def test_nothing_from_a_checkpoint_is_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "sprung"),)

    save(tmp_path, 1, {"trap": Trap()}, {})
    with pytest.raises(Exception, match="(?i)weights"):
        checkpoint.load(tmp_path / "latest")
    assert not (tmp_path / "sprung").exists()


def test_no_bit_of_a_manifest_may_differ(tmp_path: Path) -> None:
    saved = save(tmp_path, 1, STATE, {"iteration": 1, "seconds": 12.5})
    manifest = saved / "manifest.json"
    whole = manifest.read_bytes()
    for index in range(len(whole)):
        for bit in range(8):
            data = bytearray(whole)
            data[index] ^= 1 << bit
            manifest.write_bytes(data)
            assert checkpoint.read_manifest(saved) is None, f"bit {bit} of {whole[max(0, index - 9):index + 9]!r}"
    for length in range(len(whole) - 1):
        manifest.write_bytes(whole[:length])
        assert checkpoint.read_manifest(saved) is None
