"""A study of short trials on warm ranks while ranks, servers and drivers are killed: each trial is there once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

from tests.search.conftest import Workplace, processes_of_trials
from tests.search.test_pool import servers_of, study

pytestmark = [pytest.mark.fresh_start, pytest.mark.slow]
TRIALS = 20
STRUCK = {"rank": 4, "server": 3, "driver": 3, "exit": 2, "raise": 2}
"""How many trials each fault strikes. The last two are the trial's own: `os._exit(5)`, and an exception."""

FAULTY = '''
"""A wrapper that does as the plan says of its trial, and notes where two processes have one trial at the same time."""
import fcntl, json, os
import gymnasium

trial = os.environ.get("HARNESS_TRIAL_DIR")
plan = json.load(open("plan.json"))
what = plan.get(str(int(trial[-5:]))) if trial else None
if trial:
    held = os.open(trial + ".held", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        what = None
        with open("twice", "a") as out:
            print(trial, file=out)


class Faulty(gymnasium.Wrapper):
    steps = 0

    def step(self, action):
        Faulty.steps += 1
        if what is not None and Faulty.steps == what[1]:
            if what[0] == "exit":
                os._exit(5)
            raise RuntimeError("as planned")
        return self.env.step(action)
'''


@pytest.mark.parametrize("seed", range(2))
def test_faults_drawn_from_a_seed_lose_no_trial_and_double_none(workplace: Workplace, seed: int) -> None:
    drawn = random.Random(seed)
    kinds = [kind for kind, count in STRUCK.items() for _ in range(count)]
    faults = dict(sorted(zip(drawn.sample(range(TRIALS - 2), len(kinds)), kinds)))
    own = {number: (kind, drawn.randrange(1, 4000)) for number, kind in faults.items() if kind in ("exit", "raise")}
    (workplace.path / "faulty.py").write_text(FAULTY)
    (workplace.path / "plan.json").write_text(json.dumps(own))
    backend = {"env.wrappers": ["faulty:Faulty"], "env.backend": "sync"}
    study(workplace, {**backend, "run.steps": 4096, "evaluation.count": 2, "evaluation.final_episodes": 2})
    options = [f"study.trials={TRIALS}", *workplace.slots(2)]

    driver = workplace.start(*options)
    may_fail = set(own)
    for number, kind in faults.items():
        if kind in ("exit", "raise"):
            continue
        trial = workplace.path / f"studies/s/trial-{number:05d}"
        moment = drawn.choice(["begun", "rank", "reported"])
        driver = until(workplace, driver, options, trial, "rank" if kind == "rank" else moment)
        if kind == "rank":
            killed = [kill(pid) for pid, found in processes_of_trials(workplace.path).items() if found == str(trial)]
            may_fail |= {number} if any(killed) else set()
        elif kind == "server":
            any(kill(pid) for pid in servers_of(driver.pid))
        else:
            driver.kill()
            driver.wait()
            may_fail |= {each for each in range(TRIALS) if is_half_started(workplace, each)}
            driver = workplace.start(*options)

    while driver.wait(300) != 0:
        driver = workplace.start(*options)
    told = (workplace.path / "driver.log").read_text()
    assert not (workplace.path / "twice").exists(), told
    trials = workplace.trials()
    assert [trial.number for trial in trials] == list(range(TRIALS)), told
    failed = {trial.number: trial.user_attrs["reason"] for trial in trials if trial.state.name != "COMPLETE"}
    assert failed.keys() <= may_fail, f"{failed}\n{told}"
    assert failed.keys() >= own.keys(), f"{failed}\n{told}"
    workplace.wait_for(lambda: not processes_of_trials(workplace.path), 30, "end of all trials' processes")


def until(
    workplace: Workplace, driver: subprocess.Popen[str], options: list[str], trial: Path, moment: str
) -> subprocess.Popen[str]:
    """Waits for the moment of a trial, or for its end; the driver, which is another where it stopped the study after
    failures in a row."""

    def has_come() -> bool:
        if (trial / "seed-0" / "result.json").exists() or (trial / "reports.jsonl").exists():
            return True
        if moment == "rank":
            return str(trial) in processes_of_trials(workplace.path).values()
        return moment == "begun" and trial.exists()

    while True:
        workplace.wait_for(lambda: has_come() or driver.poll() is not None, 120, f"{moment} of {trial.name}")
        if driver.poll() is None or has_come():
            return driver
        assert driver.returncode != 0, f"the study ended before {trial.name}"
        driver = workplace.start(*options)


def kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def is_half_started(workplace: Workplace, number: int) -> bool:
    """Whether a driver that was killed had said that it starts a trial's job, and not yet that it did."""
    try:
        noted = json.loads((workplace.path / f"studies/s/trial-{number:05d}/job.json").read_text())
    except OSError:
        return False
    return any(saved["job"]["pid"] == -1 for saved in noted["seeds"].values())
