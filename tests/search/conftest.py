"""Studies of a small stand-in script: real drivers, real launchers, two real ranks, a second or two each."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial

from search.__main__ import main
from search.study.storage import open_storage
from tests.conftest import wait_for

SCRIPT = '''
"""A training script that knows the files of a trial and nothing else. What it does follows from x and from PLAN."""
import json, os, signal, sys, time

x, seed = float(sys.argv[1]), int(sys.argv[2])
plan = json.load(open("plan.json"))
trial, index = os.environ["HARNESS_TRIAL_DIR"], int(os.environ["HARNESS_SEED_INDEX"])
attempt, number = int(os.environ["HARNESS_ATTEMPT"]), int(trial[-5:]) if trial[-5:].isdigit() else -1
rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
mine = plan.get(str(number), plan.get("all", {}))

def log(**what):
    line = dict(trial=number, rank=rank, index=index, seed=seed, slots=os.environ["HARNESS_SLOTS"], **what)
    with open("log.jsonl", "a") as out:
        out.write(json.dumps(line) + "\\n")

def verdict():
    try:
        found = json.load(open(trial + "/verdict.json"))
    except FileNotFoundError:
        return None
    return found["stop"] if found["attempt"] == attempt and found.get("seed", index) == index else None

def finish(status, value, **more):
    log(end=status, at=time.time())
    if rank == 0:
        os.makedirs(f"{trial}/seed-{index}", exist_ok=True)
        with open(f"{trial}/seed-{index}/new.json", "w") as out:
            json.dump(dict(status=status, value=value, attempt=attempt, **more), out)
        os.rename(f"{trial}/seed-{index}/new.json", f"{trial}/seed-{index}/result.json")
    sys.exit(0)

log(start=time.time(), pid=os.getpid(), cores=sorted(os.sched_getaffinity(0)), run_id=os.environ["HARNESS_RUN_ID"])
print("rank", rank, "of trial", number, flush=True)
value = None
for step in range(1, mine.get("steps", 4) + 1):
    if step in (mine.get("raise_at"), mine.get("kill_at")) and rank == 0:
        time.sleep(600)  # as in a collective that the other never joins
    if mine.get("raise_at") == step:
        raise RuntimeError(f"trial {number} cannot go on with x = {x}")
    if mine.get("kill_at") == step:
        print("the last words of rank 1", flush=True)
        time.sleep(0.3)  # for the launcher to read them
        os.kill(os.getpid(), signal.SIGKILL)
    if mine.get("hang_at") == step:
        time.sleep(600)
    if mine.get("diverge_at") == step:
        finish("failed", None, divergence=True, reason="the loss is nan")
    value = None if mine.get("null_at") == step else x * step + index
    if rank == 0:
        with open(trial + "/reports.jsonl", "a") as out:
            out.write(json.dumps(dict(step=step, value=value, attempt=attempt, seed=index)) + "\\n")
    time.sleep(mine.get("pause", 0.05))
    stop = None if mine.get("deaf") else verdict()
    if stop:
        finish("pruned" if stop == "pruned" else "stopped", value)
finish("done", value)
'''

STUDY: dict[str, Any] = {
    "study": {"name": "s", "trials": 3, "sampler": "random", "pruner": "none"},
    "trial": {
        "command": ["python", "-S", "train.py", "{x}", "{seed}"],  # it needs no packages, and starts the sooner
        "ranks": 2,
        "launcher": "mpirun",
        "max_minutes": 1,
        "grace_seconds": 10,
    },
    "space": {"x": {"low": 1.0, "high": 2.0}},
    "confirm": {"seeds": 0},
}


@dataclass
class Workplace:
    """A directory with the script, a plan of what its trials do, and a study file."""

    path: Path
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    drivers: list[subprocess.Popen[str]] = field(default_factory=list)
    """Those in the background."""

    def plan(self, **trials: dict[str, Any]) -> None:
        """What the script does: `all=…`, or `t3=…` for trial 3."""
        keyed = {name.removeprefix("t"): what for name, what in trials.items()}
        (self.path / "plan.json").write_text(json.dumps(keyed))

    def study_file(self, **sections: dict[str, Any]) -> None:
        """`study.toml`: the study above, with these settings changed."""
        import tomli_w

        table = {name: {**STUDY.get(name, {}), **sections.get(name, {})} for name in {**STUDY, **sections}}
        (self.path / "study.toml").write_text(tomli_w.dumps(table))

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "search", *words]

    def search(self, *words: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """The real command line, run to its end in this directory."""
        return subprocess.run(
            self.command(*words), cwd=self.path, env=self.environment, capture_output=True, text=True, timeout=seconds
        )

    def run(self, *words: str, rc: int = 0) -> str:
        """`search run study.toml …` in this process, to save imports; what it printed. It must end with this code."""
        printed = io.StringIO()
        with contextlib.chdir(self.path), redirect_stdout(printed), redirect_stderr(printed):
            ended = main(["run", "study.toml", *words])
        assert ended == rc, f"exit code {ended}:\n{printed.getvalue()}"
        return printed.getvalue()

    def start(self, *words: str) -> subprocess.Popen[str]:
        """The same in the background."""
        with (self.path / "driver.log").open("a") as out:
            driver = subprocess.Popen(
                self.command("run", "study.toml", *words),
                cwd=self.path, env=self.environment, stdout=out, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
        self.drivers.append(driver)
        return driver

    def slots(self, count: int) -> list[str]:
        """Options for so many slots on this machine."""
        (self.path / "hosts").write_text(f"localhost slots={count}\n")
        return ["--hostfile", "hosts"]

    def trials(self, name: str = "s") -> list[FrozenTrial]:
        storage = open_storage(f"sqlite:///{self.path}/studies/{name}/study.db")
        return optuna.load_study(study_name=name, storage=storage).get_trials()

    def states(self) -> list[str]:
        return [trial.state.name for trial in self.trials()]

    def log(self) -> list[dict[str, Any]]:
        """What the ranks noted of themselves."""
        path = self.path / "log.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for(self, condition: Any, seconds: float, what: str) -> None:
        log = self.path / "driver.log"
        wait_for(condition, seconds, what, lambda: log.read_text() if log.exists() else "")

    def started(self, trial: int) -> list[dict[str, Any]]:
        return [line for line in self.log() if line["trial"] == trial and "start" in line]


@pytest.fixture
def workplace(tmp_path: Path) -> Any:
    place = Workplace(tmp_path)
    place.environment.pop("HARNESS_TRIAL_DIR", None)
    (tmp_path / "train.py").write_text(SCRIPT)
    place.plan(all={})
    place.study_file()
    yield place
    for driver in place.drivers:  # what a test that failed left behind
        driver.kill()
        driver.wait()
    for pid in processes_of_trials(tmp_path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for line in place.log():  # what a test that failed left behind
        if "pid" in line and Path(f"/proc/{line['pid']}/cmdline").exists():
            if b"train.py" in Path(f"/proc/{line['pid']}/cmdline").read_bytes():
                os.kill(line["pid"], signal.SIGKILL)


def processes_of_trials(folder: Path) -> dict[int, str]:
    """Processes of trials whose directories are in `folder`, and these."""
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            variables = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        named = dict(variable.split(b"=", 1) for variable in variables if b"=" in variable)
        trial = named.get(b"HARNESS_TRIAL_DIR", b"").decode()
        if Path(trial).is_relative_to(folder.resolve()) and int(entry) != os.getpid():
            found[int(entry)] = trial
    return found
