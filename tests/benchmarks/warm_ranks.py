"""What a study's trials cost beside their training: `python -m tests.benchmarks.warm_ranks --json FILE`.

A study of PPO by `search run` on two slots, with trials of some two seconds, by warm ranks and by fresh ones. Asked:
when the study has the trial. First step: when the first of its environments is stepped for the first time. Ended: when
its result is written; the end of its process is in what follows. Told: when the study has its value.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import optuna
import tomli_w

from harness.files import write_json
from harness.launching.processes import start_time
from harness.launching.warm.owner import WarmServer

ENVIRONMENT = '''
"""CartPole that notes when it is stepped first."""
import os
import time

import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv


class Noted(CartPoleEnv):
    begun = False

    def step(self, action):
        if not Noted.begun:
            Noted.begun = True
            path = os.environ.get("HARNESS_TRIAL_DIR", ".") + "/first_step"
            if not os.path.exists(path):
                with open(path, "w") as file:
                    file.write(repr(time.time()))
        return super().step(action)


gym.register("Noted-v0", Noted, max_episode_steps=500)
'''
EARLY = 20
"""Trials after which memory is first looked at."""
IDLE_SECONDS = 5.0


@dataclass(frozen=True)
class Study:
    """The figures of one study: seconds by trial, shares of slot time in percent, megabytes."""

    asked_to_first_step: list[float]
    ended_to_told: list[float]
    seconds: float
    pace: str
    early: float
    late: float


def run(launcher: str, ranks: int, trials: int, steps: int, folder: Path) -> Study:
    """A study in `folder`. Raises RuntimeError with what it printed where it fails."""
    (folder / "noted.py").write_text(ENVIRONMENT)
    overrides = {
        **{"env.id": "noted:Noted-v0", "run.steps": steps, "evaluation.count": 2, "evaluation.episodes": 2},
        **{"evaluation.final_episodes": 2, "env.backend": "sync"},
    }
    trial = {"preset": "ppo-cartpole", "ranks": ranks, "launcher": launcher, "overrides": overrides}
    table = {
        "study": {"name": "s", "trials": trials, "pruner": "none"},
        "trial": trial,
        "space": {"optimizer.lr": {"low": 1e-5, "high": 1e-2, "log": True}},
        "confirm": {"seeds": 0},
    }
    (folder / "study.toml").write_text(tomli_w.dumps(table))
    env = {name: value for name, value in os.environ.items() if not name.startswith("HARNESS_")}
    with (folder / "printed").open("w") as printed:
        words = [sys.executable, "-m", "search", "run", "study.toml"]
        driver = subprocess.Popen(words, cwd=folder, env=env, stdout=printed, stderr=subprocess.STDOUT)
        early = late = 0.0
        while driver.poll() is None:
            begun = len(list((folder / "studies" / "s").glob("trial-*")))
            if begun < trials:  # at its end the server is gone before the driver
                late = memory(driver.pid) or late
                early = late if begun <= EARLY else early
            time.sleep(0.5)
    lines = (folder / "printed").read_text().splitlines()
    if driver.returncode:
        raise RuntimeError("\n".join(lines[-20:]))
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/studies/s/study.db")
    asked, told, seconds = [], [], []
    for trial in study.trials:
        directory = folder / "studies" / "s" / f"trial-{trial.number:05d}"
        assert trial.datetime_start is not None and trial.datetime_complete is not None
        asked.append(float((directory / "first_step").read_text()) - trial.datetime_start.timestamp())
        ended = (directory / "seed-0" / "result.json").stat().st_mtime
        told.append(trial.datetime_complete.timestamp() - ended)
        seconds.append(trial.datetime_complete.timestamp() - trial.datetime_start.timestamp())
    pace = next(line for line in reversed(lines) if line.startswith("pace: "))
    return Study(asked, told, statistics.median(seconds), pace, early, late)


def memory(driver: int) -> float:
    """Resident megabytes of a driver and its server; 0 where they are gone."""
    found = 0.0
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            parent = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
            words = Path(f"/proc/{entry}/cmdline").read_bytes()
            if int(entry) == driver or parent == driver and b"start_server.py" in words:
                found += int(Path(f"/proc/{entry}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
        except (OSError, IndexError):
            continue
    return found


def idle_share() -> float:
    """Percent of a core that a server takes which waits."""
    server = WarmServer(os.environ)
    try:
        while not server.ready:
            server.listen()
            time.sleep(0.05)
        assert start_time(server.process.pid) is not None
        before = processor_seconds(server.process.pid)
        time.sleep(IDLE_SECONDS)
        return 100 * (processor_seconds(server.process.pid) - before) / IDLE_SECONDS
    finally:
        server.close()


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200, help="of one rank; a fifth as many of two")
    parser.add_argument("--steps", type=int, default=8192, help="environment steps of a trial")
    parser.add_argument("--rounds", type=int, help="taken, and of no meaning here")
    parser.add_argument("--seed", type=int, help="taken, and of no meaning here")
    parser.add_argument("--json", type=Path, help="where the figures go")
    args = parser.parse_args()
    command = shlex.join(["python", "-m", "tests.benchmarks.warm_ranks", "--trials", str(args.trials)])
    few = max(2, args.trials // 5)
    rows = []
    print(f"idle server: {(idle := idle_share()):.2f} % of a core", flush=True)
    for ranks, warm, fresh, count in ((1, "pool", "horovodrun", args.trials), (2, "pool", "horovodrun", few)):
        scores = []
        for launcher, trials in ((warm, count), (fresh, min(few, 10))):
            with tempfile.TemporaryDirectory() as folder:
                study = run(launcher, ranks, trials, args.steps, Path(folder))
            begun, told = (statistics.median(each) for each in (study.asked_to_first_step, study.ended_to_told))
            print(
                f"{ranks} rank(s) by {launcher}, {trials} trials of {study.seconds:.1f} s: asked to first step "
                f"{1000 * begun:.0f} ms, ended to told {1000 * told:.0f} ms; {study.pace}; memory of driver and server "
                f"{study.early:.0f} MB after {EARLY} trials, {study.late:.0f} MB at the end",
                flush=True,
            )
            scores += [
                {"name": f"{launcher}: asked to first step", "command": command, "values": [1000 * begun]},
                {"name": f"{launcher}: ended to told", "command": command, "values": [1000 * told], "told": study.pace},
            ]
        limits = [{"name": f"{value:g} ms", "command": "", "values": [value]} for value in (700.0, 50.0)]
        claims = [
            {"of": f"{warm}: asked to first step", "against": "700 ms", "at_most": 1.0},
            {"of": f"{warm}: ended to told", "against": "50 ms", "at_most": 1.0},
            {"of": f"{fresh}: asked to first step", "against": f"{warm}: asked to first step"},
        ]
        rows.append(
            {
                "key": f"warm-{ranks}",
                "title": f"A study's trials of {ranks} rank(s): what each costs beside its training",
                "unit": "ms",
                "note": f"Medians. A server that waits takes {idle:.2f} % of a core.",
                "scores": [*scores, *limits],
                "claims": claims,
            }
        )
    if args.json:
        write_json(args.json, {"rows": rows})


if __name__ == "__main__":
    main()
