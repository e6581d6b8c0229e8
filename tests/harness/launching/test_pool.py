"""Warm ranks: jobs whose ranks are forked are those of fresh processes, to the bit, and so are their ends."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import api
from harness.cluster.hosts import Host
from harness.launching import JobSpec, Launcher, Pool, ProcessJob, find_job, get_launcher
from harness.launching import pool as pool_module
from harness.launching.own_module import python_module
from harness.launching.processes import processes_of
from tests.checkpoints import load_newest
from tests.conftest import slow, wait_for
from tests.harness.launching.conftest import ended, output_of
from tests.multirank.test_exact_resume import assert_same, metrics_of

pytestmark = pytest.mark.fresh_start
SHORT = (
    "run.steps=2048", "evaluation.count=2", "evaluation.episodes=2", "evaluation.final_episodes=2", "sync.path=mpi",
    "logging.tensorboard=false",
)  # fmt: skip
LONG = (*SHORT, "run.steps=100_000_000", "compile.mode=off")
numbers = itertools.count()
started: list[ProcessJob] = []


@pytest.fixture(autouse=True)
def end_what_was_started() -> Iterator[None]:
    """Also where a test fails."""
    yield
    while started:
        started.pop().end(grace=0.0)


@pytest.fixture(scope="module")
def warm() -> Iterator[Pool]:
    """One pool for the tests that leave its server alone."""
    launcher = get_launcher("pool-mpirun")
    assert isinstance(launcher, Pool)
    launcher.open(2)
    yield launcher
    launcher.close()


def train(launcher: Launcher, folder: Path, ranks: int, *settings: str, preset: str = "ppo-cartpole") -> ProcessJob:
    """`harness train` into `folder`, each rank confined to its slot as those of a search are."""
    module = (*python_module("harness.cluster.slots"), *python_module("harness"))
    command = (*module, "train", preset, *settings, "--output", str(folder))
    slots = ",".join(map(str, range(ranks)))
    env = {"HARNESS_SLOTS": f"localhost:{slots}/{ranks}", "PYTHONUNBUFFERED": "1"}
    run_id = f"pool-{os.getpid()}-{next(numbers)}"
    spec = JobSpec(command, ranks, (Host("localhost", ranks),), env, run_id, folder.with_suffix(".log"), folder.parent)
    job = launcher.start(spec)
    assert isinstance(job, ProcessJob)
    started.append(job)
    return job


@pytest.mark.parametrize(
    ("preset", "ranks", "settings"),
    [
        ("ppo-cartpole", 1, ()),
        slow("ppo-cartpole", 2, ()),
        slow("dqn-cartpole", 1, ()),
        slow("sac-pendulum", 1, ("run.steps=700",)),
    ],
)
def test_a_run_of_warm_ranks_is_that_of_fresh_ones_to_the_bit(
    warm: Pool, preset: str, ranks: int, settings: tuple[str, ...], tmp_path: Path
) -> None:
    for name, launcher in (("warm", warm), ("fresh", get_launcher("mpirun"))):
        job = train(launcher, tmp_path / name, ranks, *SHORT, *settings, preset=preset)
        assert ended(job, 120).exit_code == 0, output_of(job)
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("warm", "fresh")]
    for key in ("status", "value", "env_steps", "gradient_steps", "eval_return_mean", "ranks", "sync_path"):
        assert results[0][key] == results[1][key]
    ends = [load_newest(tmp_path / name / "checkpoints")[0] for name in ("warm", "fresh")]
    assert ends[0] is not None and ends[1] is not None
    assert_same(ends[0].state, ends[1].state)
    metrics = [metrics_of(tmp_path / name) for name in ("warm", "fresh")]
    assert str(metrics[0]) == str(metrics[1]) and metrics[0]  # as text: some values are no numbers


def test_one_rank_needs_no_launcher_and_is_found_again_while_it_runs(warm: Pool, tmp_path: Path) -> None:
    job = train(warm, tmp_path / "run", 1, *LONG)
    wait_for(lambda: (tmp_path / "run" / "metrics.jsonl").exists(), 60, "training", lambda: output_of(job))
    (rank,) = processes_of(job.run_id).values()
    assert (rank.pid, rank.rank, rank.listens) == (job.pid, "0", True)

    found = find_job(json.loads(json.dumps(job.save())))
    assert found.poll() is None and found.request_stop() == 1

    assert ended(job).exit_code == 75
    wait_for(lambda: found.poll() is not None, 30, "end, seen without being its parent")
    outcome = found.poll()
    assert outcome is not None and (outcome.exit_code, outcome.failed_rank) == (75, 0)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "stopped"


def test_a_rank_that_is_killed_is_named_with_what_it_said(warm: Pool, tmp_path: Path) -> None:
    job = train(warm, tmp_path / "run", 1, *LONG)
    wait_for(lambda: "ppo-cartpole: 1 rank" in output_of(job), 60, "first line")
    os.kill(job.pid, signal.SIGKILL)

    outcome = ended(job)

    assert outcome.describe() == f"rank 0 on {os.uname().nodename} was killed by SIGKILL"
    assert outcome.last_lines[0].startswith("ppo-cartpole: 1 rank")
    assert not processes_of(job.run_id)


def test_bad_input_is_said_by_its_rank(warm: Pool, tmp_path: Path) -> None:
    outcome = ended(train(warm, tmp_path / "run", 1, "optimizer.lr=-1"))
    assert (outcome.exit_code, outcome.failed_rank) == (2, 0)
    assert outcome.reason is not None and "optimizer.lr must be" in outcome.reason


def test_the_end_of_a_job_leaves_nothing_of_it(warm: Pool, tmp_path: Path) -> None:
    job = train(warm, tmp_path / "run", 1, *LONG)
    wait_for(lambda: (tmp_path / "run" / "metrics.jsonl").exists(), 60, "training", lambda: output_of(job))
    assert job.end(grace=0.0) == []
    assert job.poll() is not None and not processes_of(job.run_id)


@pytest.fixture
def few_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is there at once: what ranks import is not the subject."""
    monkeypatch.setattr(Pool, "_modules", lambda self, ranks: [])


def script(launcher: Pool, tmp_path: Path, text: str = "print('at work')") -> ProcessJob:
    (tmp_path / "train.py").write_text(text)
    run_id = f"pool-{os.getpid()}-{next(numbers)}"
    command = (sys.executable, "train.py")
    started.append(
        launcher.start(JobSpec(command, 1, (Host("localhost", 1),), {}, run_id, tmp_path / f"{run_id}.log", tmp_path))
    )
    return started[-1]


def test_a_server_that_dies_is_started_again_within_a_limit_and_that_is_told(few_modules: None, tmp_path: Path) -> None:
    launcher = get_launcher("pool-mpirun")
    assert isinstance(launcher, Pool)
    told = []
    try:
        for _ in range(pool_module.MOST_RESTARTS + 2):
            assert ended(script(launcher, tmp_path)).exit_code == 0
            told += launcher.notices()
            if launcher._server is not None:
                launcher._server.process.kill()
                launcher._server.process.wait()
    finally:
        launcher.close()
    died, last = "the server of pool-mpirun died", "from now on processes start with their imports"
    assert told == [f"{died}: it is started again"] * pool_module.MOST_RESTARTS + [f"{died}: {last}"]


def test_a_server_that_cannot_serve_says_why_and_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holds = "import threading, time; threading.Thread(target=time.sleep, args=(600,), daemon=True).start()"
    (tmp_path / "holds.py").write_text(holds)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(Pool, "_modules", lambda self, ranks: ["holds"])
    launcher = get_launcher("pool-mpirun")
    assert isinstance(launcher, Pool)
    try:
        for _ in range(2):
            assert ended(script(launcher, tmp_path)).exit_code == 0
            if launcher._server is not None:
                launcher._server.process.wait()
        assert launcher.notices() == [
            "the server of pool-mpirun died (cannot serve: 2 threads before the fork, and a lock of theirs would stay "
            "locked): from now on processes start with their imports"
        ]
    finally:
        launcher.close()


def test_a_run_of_warm_ranks_says_so_tells_notices_and_leaves_no_server(
    few_modules: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, servers = ["something of the server"], []

    def notices(pool: Pool) -> list[str]:
        servers.append(pool._server)
        return [lines.pop()] if lines else []

    monkeypatch.setattr(Pool, "notices", notices)

    result = api.train("ppo-cartpole", SHORT, output=tmp_path / "run", ranks=1, launcher="pool-mpirun")

    assert result.status == "done"
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["ranks by pool-mpirun (warm ranks)", "something of the server"]
    assert servers[0] is not None and servers[0].forked == 1 and not servers[0].lives


def test_packages_that_changed_have_another_server(
    few_modules: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = get_launcher("pool-mpirun")
    assert isinstance(launcher, Pool)
    try:
        launcher.open(1)
        before = launcher._server
        monkeypatch.setattr("harness.launching.warm.owner.code_stamp", lambda: ("other",))
        assert ended(script(launcher, tmp_path)).exit_code == 0
        assert launcher._server is not before
        assert launcher.notices() == ["packages have changed: the server of pool-mpirun is started again"]
    finally:
        launcher.close()


def test_a_command_that_no_fork_can_become_starts_as_ever(few_modules: None, tmp_path: Path) -> None:
    launcher = get_launcher("pool-mpirun")
    assert isinstance(launcher, Pool)
    try:
        job = script(launcher, tmp_path, "import sys; sys.exit(3)")
        outcome = ended(job)
        assert (outcome.exit_code, outcome.failed_rank) == (3, 0)
        assert launcher._server is not None
        launcher._server.listen()
        assert launcher._server.forked == 1
        command = ("sh", "-c", "exit 4")
        spec = JobSpec(command, 1, (Host("localhost", 1),), {}, f"sh-{os.getpid()}", tmp_path / "sh.log", tmp_path)
        assert ended(launcher.start(spec)).exit_code == 4
        launcher._server.listen()
        assert launcher._server.forked == 1
    finally:
        launcher.close()
