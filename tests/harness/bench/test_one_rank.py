"""`harness bench throughput` in the process that was started: a real run, timed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from harness.files import read_json
from tests.command import environment, harness
from tests.conftest import wait_for

QUICK = ["--repeats", "3", "--seconds", "0.1"]


def test_throughput_of_a_preset_and_its_floor(tmp_path):
    ran = harness("bench", "throughput", "ppo-cartpole", "compile.mode=off", *QUICK, "--json", "a/b.json", cwd=tmp_path)
    assert ran.code == 0, ran.err
    written = read_json(tmp_path / "a" / "b.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"], "no run's directory"
    (found,) = written["throughput"]
    config, floor = found["config"], found["floor"]
    assert found["ranks"] == 1 and config["run"]["name"] == "ppo-cartpole"

    # figures that must agree with each other: one iteration is 8 x 32 steps and 20 epochs of one minibatch of 256
    seconds = found["iteration_milliseconds"]["median"] / 1e3
    assert found["env_steps_per_second"]["median"] == pytest.approx(8 * 32 / seconds)
    assert found["gradient_steps_per_second"]["median"] == pytest.approx(20 / seconds)
    assert {"act", "environment", "store", "advantages", "gradient", "optimizer", "rest"} <= {
        phase["phase"] for phase in found["phases"]
    }
    assert 0 < floor["total"]["median"] < found["iteration_milliseconds"]["median"]
    assert floor["ratio"]["low"] > 1 and floor["products"]["median"] > 0 and floor["environment"]["median"] > 0

    # what is printed is what is written
    assert found["line"] in ran.out and f"{found['env_steps_per_second']['median']:,.0f}" in ran.out
    certificate = written["certificate"]
    assert certificate["command"] in "python -m harness " + " ".join(
        ["bench throughput ppo-cartpole compile.mode=off", *QUICK, "--json", "a/b.json"]
    )
    assert certificate["cpu"] in ran.out and certificate["date"] in ran.out


def test_an_algorithm_without_environments_has_a_floor_of_products(tmp_path):
    ran = harness("bench", "throughput", "supervised-digits", *QUICK, "--json", "found.json", cwd=tmp_path)
    assert ran.code == 0, ran.err
    (found,) = read_json(tmp_path / "found.json")["throughput"]
    assert "samples a second" in ran.out
    assert found["floor"]["environment"] is None and found["floor"]["ratio"]["low"] > 1


@pytest.mark.fresh_start
def test_a_signal_ends_the_measurement_without_a_figure(tmp_path):
    command = [sys.executable, "-m", "harness", "bench", "throughput", "ppo-cartpole", "compile.mode=off"]
    process = subprocess.Popen(
        [*command, "--seconds", "60", "--json", "found.json"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        time.sleep(0.5)
        status = f"/proc/{process.pid}/status"

        def listens() -> bool:
            caught = next(line for line in open(status) if line.startswith("SigCgt"))
            return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)

        wait_for(listens, 30, "handler")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 1 and err == "harness: stopped on request: nothing was measured\n"
    assert out == "" and not (tmp_path / "found.json").exists()
