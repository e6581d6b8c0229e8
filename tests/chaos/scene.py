"""One run under faults: its directory, its attempts, and what is known of its processes and checkpoints."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from harness.files import read_json
from harness.lifecycle.checkpoints.checkpoint import load, saved_steps
from harness.lifecycle.heartbeat import read_beats
from tests.command import environment
from tests.multirank.test_failures import left_of

COMMON = """
[run]
steps = {steps}
[env]
id = "{env}"
count = {envs}
backend = "{backend}"
[algorithm]
{algorithm}
[optimizer]
lr = 1e-3
[network]
hidden = [64, 64]
[compile]
mode = "off"
[sync]
path = "{path}"
[evaluation]
count = {updates}
episodes = 4
final_episodes = 20
[logging]
tensorboard = false
"""
UPDATES = 20
"""Of every run: its iterations, with an evaluation and a checkpoint after each."""
PPO = """name = "ppo"
rollout_steps = 128
minibatch_size = 256
epochs = 4
gamma = 0.98
gae_lambda = 0.8"""
# the replay is full, and wraps, after a third of the run
DQN = """name = "dqn"
buffer_size = 1_600
learning_starts = 200
train_freq = 64
gradient_steps = 16
target_update_interval = 64
prioritized = true
n_steps = 3"""
SAC = """name = "sac"
buffer_size = 1_600
learning_starts = 200
batch_size = 64
train_freq = 64
gradient_steps = 8"""
CARTPOLE, PENDULUM = {"env": "CartPole-v1", "backend": "native"}, {"env": "Pendulum-v1", "backend": "sync"}
"""By backends whose environments go on exactly, as EnvPool's do not."""
RUNS = {
    "PPO on CartPole": {**CARTPOLE, "envs": 8, "steps": UPDATES * 1024, "algorithm": PPO},
    "DQN on CartPole": {**CARTPOLE, "envs": 4, "steps": UPDATES * 256, "algorithm": DQN},
    "SAC on Pendulum": {**PENDULUM, "envs": 4, "steps": UPDATES * 256, "algorithm": SAC},
}
"""What may be run, by what it is called in the table."""
RANKS = 2
PATHS = {"mpirun": "mpi", "horovodrun": "mpi", "horovodrun-gloo": "horovod"}
LONGEST = 90.0
"""Seconds after which an attempt that has not ended counts as lost."""


class Scene:
    """A run called `name` in `folder/run`, by a launcher, of what RUNS calls `kind`; `start` makes an attempt."""

    def __init__(self, folder: Path, name: str, launcher: str, kind: str = "PPO on CartPole") -> None:
        self.folder, self.name, self.launcher, self.kind = folder, name, launcher, kind
        self.run_dir, self.clock = folder / "run", folder / "clock"
        self.process: subprocess.Popen[str] | None = None
        self.log = folder / "attempts.log"
        self.run_dir.mkdir(parents=True)

    def start(self) -> None:
        settings = self.folder / f"{self.name}.toml"
        settings.write_text(COMMON.format(**RUNS[self.kind], path=PATHS[self.launcher], updates=UPDATES))
        command = [sys.executable, "-m", "harness", "train", str(settings), "--output", str(self.run_dir)]
        search = os.pathsep.join([str(Path(__file__).with_name("clock")), environment()["PYTHONPATH"]])
        env = environment({"PYTHONPATH": search, "CHAOS_CLOCK": str(self.clock)})
        with self.log.open("a") as log:
            print("== an attempt", file=log, flush=True)
            self.said_from = log.tell()
            self.process = subprocess.Popen(
                [*command, "--ranks", str(RANKS), "--launcher", self.launcher],
                cwd=self.folder,
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self.began = time.monotonic()

    # -- what it does --------------------------------------------------------------------------------------------------

    def updates(self) -> int:
        """How many updates its metrics hold."""
        path = self.run_dir / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def running(self) -> bool:
        assert self.process is not None
        return self.process.poll() is None

    def said(self) -> str:
        """What this attempt printed."""
        with self.log.open() as log:
            log.seek(self.said_from)
            return log.read()

    def wait_until(self, updates: int, seconds: float) -> str:
        """Until its metrics hold so many updates and then for some seconds; or its end, or a limit. "", or where it
        reached the limit, what its processes are."""
        while self.running() and self.updates() < updates:
            if time.monotonic() > self.began + LONGEST:
                return f"no update {updates} within {LONGEST:.0f} s: {'; '.join(self.processes())}"
            time.sleep(0.005)
        until = time.monotonic() + seconds
        while self.running() and time.monotonic() < until:
            time.sleep(0.005)
        return ""

    def wait(self) -> int | None:
        """The exit code of this attempt; None where it did not end, and was killed here."""
        assert self.process is not None
        try:
            return self.process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            self.kill_all()
            return None

    def result(self) -> dict:
        found = read_json(self.run_dir / "result.json")
        return found if isinstance(found, dict) else {}

    # -- its processes -------------------------------------------------------------------------------------------------

    def rank_process(self, rank: int) -> int | None:
        beat = read_beats(self.run_dir).get(rank)
        alive = beat is not None and str(beat.pid) in left_of(f"{self.name}-")
        return beat.pid if beat is not None and alive else None

    def launcher_process(self) -> int | None:
        """The launcher's process: the parent's only child, once it is there."""
        assert self.process is not None
        with suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children():
                if str(child.pid) in left_of(f"{self.name}-"):
                    return child.pid
        return None

    def processes(self) -> list[str]:
        """Each of them: its pid, state, age and command."""
        pids = ",".join(left_of(f"{self.name}-")) or "0"
        shown = ["ps", "-o", "pid=,stat=,etimes=,wchan=,args=", "-p", pids]
        lines = subprocess.run(shown, capture_output=True, text=True).stdout.splitlines()
        return [" ".join(line.split())[:160] for line in lines]

    def kill_all(self) -> None:
        """Everything of the run, the parent first, as a host's end would."""
        assert self.process is not None
        self.process.kill()
        for _ in range(3):
            for pid in left_of(f"{self.name}-"):
                signal_to(int(pid), signal.SIGKILL)
        self.process.wait()

    def left_after(self, seconds: float) -> list[str]:
        """The processes of the run that are left after so many seconds; it waits no longer than it must."""
        until = time.monotonic() + seconds
        while (left := left_of(f"{self.name}-")) and time.monotonic() < until:
            time.sleep(0.1)
        return left

    # -- its checkpoints -----------------------------------------------------------------------------------------------

    def newest(self) -> Path | None:
        found = saved_steps(self.run_dir / "checkpoints")
        return found[-1] if found else None

    def learned(self) -> dict[str, torch.Tensor]:
        """The parameters of the newest checkpoint."""
        newest = self.newest()
        found = load(newest, state_alone=True) if newest is not None else None
        assert found is not None
        return found.state["module"]

    def resumed_from(self) -> str | None:
        """The checkpoint that this attempt says it resumed from."""
        found = re.search(r"resumed from .*/(step-\d+)", self.said())
        return found[1] if found else None


def signal_to(pid: int, number: signal.Signals) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False
