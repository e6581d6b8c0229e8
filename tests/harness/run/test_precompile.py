"""Code that is made before there are any runs is the code that they find."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.config import load_run_config
from harness.errors import BadInput
from harness.run.precompile import kept_code, precompile
from harness.run.train import train
from harness.training.compile.store import FOLDER
from tests.command import harness
from tests.conftest import need, slow

SHORT = ["run.steps=512", "evaluation.count=1", "evaluation.episodes=1", "evaluation.final_episodes=1"]
SMALL = {
    "ppo": ["ppo-cartpole", "network.hidden=[8]", "env.count=3", "algorithm.minibatch_size=48"],
    "sac": ["sac-pendulum", "network.hidden=[8]", "algorithm.learning_starts=100", "algorithm.batch_size=32"],
}


@pytest.mark.parametrize("kind", [slow("ppo"), slow("sac")])
def test_a_run_finds_what_was_compiled_for_it(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    need(shutil.which("g++"), "a C++ compiler")
    monkeypatch.setenv(FOLDER, str(tmp_path / "code"))
    preset, *settings = SMALL[kind]
    told = list(precompile(load_run_config(preset, settings)))
    assert len(told) == 1 and "rank 0 of 1: gradient kept (compiled)" in told[0]
    assert len(kept_code()) >= 2 and "MB, traces included" in kept_code()[-1]
    assert train(load_run_config(preset, [*settings, *SHORT]), tmp_path / "run").status == "done"
    assert "gradient kept (found on disk)" in capsys.readouterr().out


def test_there_is_nothing_to_compile_for_what_would_be_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nothing can be kept: HARNESS_CODE_CACHE is empty"):
        next(precompile(load_run_config("ppo-cartpole", [])))
    monkeypatch.setenv(FOLDER, str(tmp_path))
    with pytest.raises(BadInput, match="env.count"):
        next(precompile(load_run_config("ppo-cartpole", []), ranks=9))


def test_the_command_lists_what_there_is(tmp_path: Path) -> None:
    ran = harness("compile", cwd=tmp_path, env={FOLDER: str(tmp_path / "code")})
    assert ran.code == 0 and ran.out == f"0 pieces of code in {tmp_path / 'code'}: 0 of 512 MB, traces included\n"
    assert harness("compile", "ppo-cartpole", "--ranks", "0", cwd=tmp_path).code == 2
