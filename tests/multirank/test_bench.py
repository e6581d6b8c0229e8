"""`harness bench` with real ranks: small sizes, few repeats."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.bench import allreduce
from harness.bench.launch import Places, read_lines
from harness.bench.screen import Screen
from harness.files import read_json
from tests.command import environment, harness
from tests.conftest import slow, wait_for
from tests.multirank.launch import run_ranks

QUICK = ["--repeats", "1", "--seconds", "0.1"]

HANDING_OVER = """
import os, sys
from pathlib import Path
from harness.bench.launch import hand_over
from harness.distributed.world import detect_place
if detect_place(os.environ).rank == 0:
    hand_over({"times": [number / 7 for number in range(5000)]}, Path("/nowhere/found.json"))
else:
    for _ in range(2000):
        print("something else", file=sys.stderr)
"""

FAILING = """
import os
import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv


class Failing(CartPoleEnv):
    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps > 40:
            raise RuntimeError("no more steps")
        return super().step(action)


gym.register("Failing-v0", Failing, max_episode_steps=10)
"""


@pytest.mark.slow
def test_an_all_reduce_by_every_way_there_is(tmp_path):
    ran = harness("bench", "allreduce", "--max-size", "16KB", *QUICK, "--json", "found.json", cwd=tmp_path)
    assert ran.code == 0, ran.err
    written = read_json(tmp_path / "found.json")
    rows = {(row["way"], row["bytes"]): row for row in written["rows"]}
    ways = ("mpi", "mpi-bare", "mpi-ring", "horovod", "horovod-defaults", "horovod-gloo", "torch-gloo")
    missing = {left["way"]: left["reason"] for left in written["left_out"]}
    assert set(rows) == {(way, size) for way in ways for size in (4096, 16384)}, missing
    assert set(missing) == {"nccl"} and "needs a GPU for each rank" in missing["nccl"] and missing["nccl"] in ran.out
    for (_, size), row in rows.items():
        times = row["microseconds"]
        assert 0 < times["low"] <= times["median"] <= times["high"] and times["count"] >= 7
        carried = 2 * (2 - 1) * size / 2  # each of two ranks sends half of the bytes twice
        assert row["bus_bandwidth"] * 1e9 * times["median"] / 1e6 == pytest.approx(carried)
    assert rows["mpi-ring", 4096]["algorithm"] == "ring, forced"
    assert rows["mpi", 4096]["algorithm"] == "shared memory"
    assert rows["mpi", 4096]["library"].startswith("Open MPI") and rows["torch-gloo", 4096]["library"] is None
    assert (
        "cycle 0.1 ms" in rows["horovod", 4096]["algorithm"]
        and "cycle 1 ms" in rows["horovod-defaults", 4096]["algorithm"]
    )
    # 1 ms apart and ten times: MPI's microseconds against Horovod's wait for its next cycle
    assert rows["mpi", 4096]["microseconds"]["median"] < rows["horovod-defaults", 4096]["microseconds"]["median"]
    plot = (tmp_path / "found.html").read_text()
    assert "forced to the ring, 2 ranks" in plot and '"type":"log"' in plot


@pytest.mark.slow
def test_a_way_that_does_not_work_here_is_left_out_and_the_others_are_measured(monkeypatch):
    """Open MPI is told to have no all-reduce, which is nothing to Gloo."""
    monkeypatch.setattr(allreduce, "WAYS", [way for way in allreduce.WAYS if way.name in ("mpi", "horovod-gloo")])
    monkeypatch.setenv("OMPI_MCA_coll", "self")
    places = Places.find([2], None, None)
    with Screen() as screen:
        rows, left_out = allreduce.measure(places, [2], [4096], 2, 0.1, screen)
    assert [row.way for row in rows] == ["horovod-gloo"]
    assert [left.way for left in left_out] == ["mpi"] and "2 ranks by horovodrun: " in left_out[0].reason


@pytest.mark.parametrize("launcher", ["mpirun", slow("horovodrun"), slow("horovodrun-gloo")])
def test_what_rank_0_found_on_a_host_without_the_parents_files_comes_by_its_output(launcher, tmp_path):
    ranks = run_ranks(2, launcher, HANDING_OVER, tmp_path)
    assert read_lines(ranks.lines(0)) == {"times": [number / 7 for number in range(5000)]}


def test_throughput_of_two_ranks(tmp_path):
    ran = harness(
        "bench",
        "throughput",
        "ppo-cartpole",
        "compile.mode=off",
        "--ranks",
        "1,2",
        *QUICK,
        "--json",
        "found.json",
        cwd=tmp_path,
    )
    assert ran.code == 0, ran.err
    one, two = read_json(tmp_path / "found.json")["throughput"]
    assert (one["ranks"], two["ranks"]) == (1, 2) and "2 ranks" in two["line"]
    for found in (one, two):
        assert math.fsum(phase["share"]["median"] for phase in found["phases"]) == pytest.approx(1)
        spent = math.fsum(phase["milliseconds"]["median"] for phase in found["phases"])
        assert spent == pytest.approx(found["iteration_milliseconds"]["median"], rel=0.1), "no time between the phases"
        assert found["floor"]["total"]["median"] < found["iteration_milliseconds"]["median"]
        # global sizes: 20 gradient steps on 256 samples, whatever the number of ranks
        steps = found["env_steps_per_second"]["median"] / found["gradient_steps_per_second"]["median"]
        assert steps == pytest.approx(256 / 20)
    shares = {phase["phase"]: phase["share"]["median"] for phase in two["phases"]}
    assert shares["agree"] > 0


@pytest.mark.slow
def test_ranks_of_the_users_own_launcher_measure_and_rank_0_tells(tmp_path):
    env = {
        **environment(),
        "OPAL_PREFIX": sys.prefix,
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    mpirun = Path(sys.executable).parent / "mpirun"
    bench = ["-m", "harness", "bench", "throughput", "ppo-cartpole", "compile.mode=off", *QUICK, "--json", "found.json"]
    command = [str(mpirun), "--bind-to", "none", "-np", "2", sys.executable, *bench]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("gradient steps a second") == 1
    assert read_json(tmp_path / "found.json")["throughput"][0]["ranks"] == 2


@pytest.mark.slow
def test_scaling_weak_strong_and_to_a_return(tmp_path):
    quick = [
        "compile.mode=off",
        "run.steps=8192",
        "evaluation.episodes=2",
        "env.count=4",
        "algorithm.minibatch_size=64",
    ]
    ran = harness(
        "bench", "scaling", "ppo-cartpole", *quick, "--until", "9", *QUICK, "--json", "found.json", cwd=tmp_path
    )
    assert ran.code == 0, ran.err
    found = read_json(tmp_path / "found.json")
    weak, strong, until = found["weak"], found["strong"], found["until"]
    assert [(rate["ranks"], rate["env_count"], rate["batch"]) for rate in weak] == [(1, 4, 64), (2, 8, 128)]
    assert [(rate["ranks"], rate["env_count"], rate["batch"]) for rate in strong] == [(1, 4, 64), (2, 4, 64)]
    assert weak[0]["steps_per_second"] == strong[0]["steps_per_second"], "one rank is measured once"
    for rates in (weak, strong):
        ratio = rates[1]["steps_per_second"]["median"] / rates[0]["steps_per_second"]["median"]
        assert rates[1]["speed_up"] == pytest.approx(ratio) and rates[1]["efficiency"] == pytest.approx(ratio / 2)
    assert [time["reached"] for time in until] == [1, 1] and all(time["seconds"]["median"] > 0 for time in until)
    assert until[0]["env_steps"]["median"] == until[1]["env_steps"]["median"], "N ranks are the same experiment"
    for definition in (found["definitions"]["weak"], found["definitions"]["strong"]):
        assert definition in ran.out


def test_a_rank_that_fails_ends_the_bench_with_one_line(tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    own = ["env.id=failing:Failing-v0", "env.backend=sync", "compile.mode=off"]
    ran = harness("bench", "throughput", "ppo-cartpole", *own, "--ranks", "2", *QUICK, cwd=tmp_path)
    assert ran.code == 1 and ran.out == ""
    last = ran.err.splitlines()[-1]
    assert last.startswith("harness: 2 ranks by horovodrun: rank ") and "no more steps" in last


@pytest.mark.slow
@pytest.mark.fresh_start
def test_a_signal_to_the_parent_ends_all_ranks(tmp_path):
    bench = ["-m", "harness", "bench", "allreduce", "--seconds", "30", "--max-size", "4KB", "--json", "found.json"]
    process = subprocess.Popen(
        [sys.executable, *bench], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(lambda: len(ranks_in(tmp_path)) == 2, 60, "ranks")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 1 and err.splitlines()[-1] == "harness: stopped by SIGTERM: nothing is written"
    assert not ranks_in(tmp_path) and not list(tmp_path.iterdir())


def ranks_in(folder: Path) -> list[int]:
    """Processes of ranks whose bench was started in `folder`, those that outlived it too."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if command[1:3] == [b"-m", b"harness.bench.rank"] and Path(f"/proc/{pid}/cwd").samefile(folder):
                found.append(int(pid))
        except OSError:
            continue
    return found
