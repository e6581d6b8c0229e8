"""`search best --export`: the policies of the seeds that confirmed a trial, or its own, as one file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.errors import BadInput
from harness.policy.onnx_policy import OnnxPolicy
from search.commands.best import export_best
from search.study.study_dir import StudyDir
from tests.harness.policy.runs import short_run

pytest.importorskip("onnxruntime")


def test_the_seeds_that_confirmed_the_trial_decide_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    directory = StudyDir("mine")
    own = short_run(directory.trial(3) / "seed-0", "ppo-cartpole")
    shutil.copy(own / "config.toml", directory.trial(3) / "config.toml")
    for seed in (1, 2):
        short_run(directory.confirm / f"seed-{seed - 1}", "ppo-cartpole", f"seed={seed}")

    export_best(directory, 3, {"trial": 3}, tmp_path / "all.onnx")
    export_best(directory, 3, {"trial": 2}, tmp_path / "own.onnx")

    assert [each["seed"] for each in OnnxPolicy("all.onnx").card.members] == [1, 2]
    assert OnnxPolicy("own.onnx").card.ensemble is None
    shutil.rmtree(directory.confirm)
    with pytest.raises(BadInput, match="has no run that is done"):
        export_best(directory, 3, {"trial": 3}, tmp_path / "none.onnx")
