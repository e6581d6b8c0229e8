"""Users' own scripts as trials: one rank, and real ranks that start themselves in every way a script may."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.files import read_json, read_json_lines, write_json
from tests.conftest import slow, wait_for

BIN = Path(sys.executable).parent

LOOP = """
for step in range(1, 400):
    report(step, 10.0 * step, env_steps=100 * step)
    time.sleep(0.05)
    if should_stop():
        (out / f"rank-{rank()}").write_text(str(step))
        break
"""

HEAD = """
import os, sys, time
from pathlib import Path
from harness.reporting import report, should_stop
out = Path(sys.argv[1])
def rank():
    return os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ.get("HOROVOD_RANK") or os.environ.get("RANK") or "0"
"""

START = {
    "nothing": "",
    "horovod": "import horovod.torch as hvd; hvd.init()\n",
    "mpi4py": "from mpi4py import MPI\n",
    # left standing, the group's threads abort the process now and then
    "torch": "import atexit, torch.distributed as dist\n"
    "dist.init_process_group('gloo'); atexit.register(dist.destroy_process_group)\n",
}


def environment(trial: Path | None, attempt: int = 1, seed: int = 0, **more: str) -> dict[str, str]:
    outer = ("HARNESS_", "OMPI_", "PMIX_", "PMI_", "HOROVOD_", "SLURM_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
    env.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMP_NUM_THREADS="1", **more)
    if list((Path(sys.prefix) / "lib").glob("libmpi.so*")):
        env["OPAL_PREFIX"] = sys.prefix
    if trial is not None:
        env.update(HARNESS_TRIAL_DIR=str(trial), HARNESS_ATTEMPT=str(attempt), HARNESS_SEED_INDEX=str(seed))
    return env


def launch(launcher: str, script: Path, out: Path, env: Mapping[str, str]) -> list[subprocess.Popen]:
    command = [sys.executable, str(script), str(out)]
    if launcher == "mpirun":
        head = [str(BIN / "mpirun"), "-np", "2", "--oversubscribe", "--bind-to", "none"]
    elif launcher == "horovodrun":
        head = [str(BIN / "horovodrun"), "--gloo", "-np", "2", "-H", "localhost:2"]
        env = {**env, "PATH": f"{BIN}:{env['PATH']}"}
    elif launcher == "torchrun":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}
        return [subprocess.Popen(command, env={**env, **shared, "RANK": str(rank)}) for rank in range(2)]
    else:
        head = []
    return [subprocess.Popen(head + command, env=dict(env))]


def run_alone(code: str, tmp_path: Path, trial: Path | None, **more: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    script.write_text(HEAD + code)
    env = environment(trial, **more)
    return subprocess.run(
        [sys.executable, str(script), str(tmp_path)], env=env, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize(
    "launcher,start",
    [
        ("mpirun", "nothing"),
        ("mpirun", "mpi4py"),
        slow("mpirun", "horovod"),
        slow("horovodrun", "nothing"),
        ("horovodrun", "horovod"),
        ("torchrun", "torch"),
    ],
)
def test_two_ranks_report_once_and_stop_at_the_same_step(tmp_path, launcher, start):
    trial = tmp_path / "trial-00000"
    trial.mkdir()
    script = tmp_path / "script.py"
    script.write_text(START[start] + HEAD + LOOP)
    jobs = launch(launcher, script, tmp_path, environment(trial, attempt=2, seed=1))
    try:
        wait_for(lambda: len(read_json_lines(trial / "reports.jsonl")[0]) >= 3, 90, "third report")
        write_json(trial / "verdict.json", {"stop": "pruned", "attempt": 2, "seed": 1})
        assert [job.wait(timeout=300) for job in jobs] == [0] * len(jobs)
    finally:
        for job in jobs:
            job.kill()
    reports, _ = read_json_lines(trial / "reports.jsonl")
    last = len(reports)
    assert reports == [
        {"step": step, "value": 10.0 * step, "env_steps": 100 * step, "attempt": 2, "seed": 1}
        for step in range(1, last + 1)
    ]
    assert (tmp_path / "rank-0").read_text() == (tmp_path / "rank-1").read_text() == str(last)
    assert last < 399
    result = read_json(trial / "seed-1" / "result.json")
    assert (result["status"], result["value"], result["attempt"]) == ("pruned", 10.0 * last, 2)
    assert (result["ranks"], result["env_steps"]) == (2, 100 * last)


def test_an_exception_in_rank_0_ends_both_ranks_though_mpi_was_started_behind_the_scripts_back(tmp_path):
    trial = tmp_path / "trial"
    trial.mkdir()
    script = tmp_path / "script.py"
    script.write_text(
        HEAD
        + "report(1, 5.0)\n"
        + "while not should_stop():\n"
        + "    if rank() == '0':\n"
        + "        raise RuntimeError('the disk\\nis full')\n"
    )
    started = time.monotonic()
    (job,) = launch("mpirun", script, tmp_path, environment(trial))
    try:
        assert job.wait(timeout=300) != 0
    finally:
        job.kill()
    assert time.monotonic() - started < 240
    result = read_json(trial / "seed-0" / "result.json")
    assert (result["status"], result["reason"], result["value"]) == ("failed", "RuntimeError: the disk is full", 5.0)


def test_outside_a_trial_both_do_nothing(tmp_path):
    done = run_alone("report(1, 2.0)\nprint(should_stop())\n", tmp_path, None)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]


@pytest.mark.parametrize(
    "ending,expected",
    [
        ("report(1, 1.0); report(2, 4.5, env_steps=9)", {"status": "done", "value": 4.5, "env_steps": 9, "ranks": 1}),
        ("report(1, 1.0); report(2, float('nan'))", {"status": "failed", "value": None, "divergence": True}),
        ("report(1, 1.0); 1 / 0", {"status": "failed", "value": 1.0, "reason": "ZeroDivisionError: division by zero"}),
        ("should_stop()", {"status": "failed", "value": None, "reason": "the script ended without a report"}),
        ("report(1, 1.0); sys.excepthook = lambda *_: None; 1 / 0", {"status": "failed", "value": 1.0}),
        (
            "from harness.errors import Diverged; report(1, 1.0); raise Diverged('loss is nan')",
            {"status": "failed", "divergence": True, "reason": "Diverged: loss is nan"},
        ),
    ],
)
def test_the_result_says_how_the_script_ended(tmp_path, ending, expected):
    trial = tmp_path / "trial"
    trial.mkdir()
    run_alone(ending, tmp_path, trial, attempt=3, seed=2)
    result = read_json(trial / "seed-2" / "result.json")
    assert {name: result[name] for name in expected} == expected
    assert result["attempt"] == 3 and 0 < result["wall_seconds"] < 120


def test_the_result_of_a_newer_attempt_is_never_overwritten(tmp_path):
    trial = tmp_path / "trial"
    newer = {"status": "done", "attempt": 2}
    write_json(trial / "seed-0" / "result.json", newer)
    write_json(trial / "job.json", {"attempt": 2})
    done = run_alone("report(1, 2.0)\nprint(should_stop())\n", tmp_path, trial, attempt=1)
    assert done.stdout == "True\n"
    assert read_json(trial / "seed-0" / "result.json") == newer


def test_a_worker_that_the_script_forked_writes_no_result(tmp_path):
    trial = tmp_path / "trial"
    trial.mkdir()
    code = (
        "report(1, 2.0)\n"
        "if os.fork() == 0:\n"
        "    sys.exit(0)\n"
        "os.wait()\n"
        "print((Path(os.environ['HARNESS_TRIAL_DIR']) / 'seed-0').exists())\n"
    )
    assert run_alone(code, tmp_path, trial).stdout == "False\n"
    assert json.loads((trial / "seed-0" / "result.json").read_text())["status"] == "done"


def test_torchrun_ranks_are_told_to_start_before_they_ask(tmp_path):
    trial = tmp_path / "trial"
    trial.mkdir()
    env = {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "WORLD_SIZE": "2"}
    done = run_alone("report(1, 2.0)\nshould_stop()\n", tmp_path, trial, **env)
    assert "call torch.distributed.init_process_group() before it" in done.stderr
    assert list(trial.iterdir()) == [], "rank 1 writes nothing"
