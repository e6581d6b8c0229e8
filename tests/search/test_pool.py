"""Studies on warm ranks: they are the default of a preset's trials, and whoever dies, each trial is there once."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from harness.launching import processes
from tests.conftest import wait_for
from tests.search.conftest import Workplace, processes_of_trials

pytestmark = pytest.mark.fresh_start
SHORT = {
    "run.steps": 4096,
    "evaluation.count": 4,
    "evaluation.episodes": 4,
    "evaluation.final_episodes": 4,
    "logging.tensorboard": False,
    "compile.mode": "off",
}


def study(workplace: Workplace, overrides: dict[str, Any] = {}, **trial: Any) -> None:
    table = {
        "study": {"name": "s", "trials": 3, "sampler": "random", "pruner": "none"},
        "trial": {"preset": "ppo-cartpole", "ranks": 1, "max_minutes": 3, "overrides": {**SHORT, **overrides}, **trial},
        "space": {"optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True}},
        "confirm": {"seeds": 0},
    }
    (workplace.path / "study.toml").write_text(tomli_w.dumps(table))


def servers_of(driver: int) -> list[int]:
    """The servers that a process has started and that live."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes()
            parent = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if b"start_server.py" in words and int(parent) == driver:
            found.append(int(entry))
    return found


def test_a_presets_trials_are_on_warm_ranks_by_default_and_the_same_to_the_bit(workplace: Workplace) -> None:
    study(workplace)

    warm = workplace.run("study.trials=2")
    fresh = workplace.run("study.trials=2", "trial.launcher=mpirun", "study.name=fresh")

    assert "2 trials of 1 rank by pool (warm ranks) on" in warm
    assert "2 trials of 1 rank by mpirun on" in fresh
    values = [[trial.intermediate_values for trial in workplace.trials(name)] for name in ("s", "fresh")]
    assert values[0] == values[1] and all(values[0])
    pace = warm.splitlines()[-1]
    assert re.fullmatch(
        r"pace: 2 runs in \d+ s, [\d.]+ a minute; the slots were busy for \d+ % of the time, and trained for \d+ %",
        pace,
    )


@pytest.mark.slow
def test_whoever_dies_each_trial_is_there_once(workplace: Workplace) -> None:
    """The driver while two trials run, the next driver's server, and a rank."""
    study(workplace, {"run.steps": 40_000})
    slots = workplace.slots(2)
    driver = workplace.start("study.trials=6", *slots)
    reports = [workplace.path / f"studies/s/trial-0000{number}/reports.jsonl" for number in range(6)]
    workplace.wait_for(lambda: reports[0].exists() and reports[1].exists(), 60, "reports of two trials")
    (server,) = servers_of(driver.pid)
    driver.kill()
    driver.wait()
    assert processes.start_time(server) is not None, "it waits for the ranks that it has forked"

    again = workplace.start("study.trials=6", *slots)
    workplace.wait_for(lambda: servers_of(again.pid) and reports[2].exists(), 120, "reports of the third trial")
    os.kill(servers_of(again.pid)[0], signal.SIGKILL)
    workplace.wait_for(reports[4].exists, 120, "reports of the fifth trial")
    ranks = [pid for pid, found in processes_of_trials(workplace.path).items() if found == str(reports[4].parent)]
    os.kill(ranks[0], signal.SIGKILL)

    assert again.wait(300) == 0, (workplace.path / "driver.log").read_text()
    told = (workplace.path / "driver.log").read_text()
    assert workplace.states() == ["COMPLETE"] * 4 + ["FAIL", "COMPLETE"]
    assert "SIGKILL" in workplace.trials()[4].user_attrs["reason"]
    assert told.count("was running when its driver ended: its job is watched again") == 2
    assert told.count("the server of pool died: it is started again") == 1
    assert all(list(trial.intermediate_values) == [1, 2, 3, 4] for trial in workplace.trials() if trial.number != 4)
    wait_for(lambda: processes.start_time(server) is None, 30, "end of the first server")
