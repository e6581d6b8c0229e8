"""A short sweep of faults: nothing is lost, nothing damaged is loaded, and the run ends as an undisturbed one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.launching.processes import RUN_ID
from tests.chaos.faults import AskToStop
from tests.chaos.scene import Scene
from tests.chaos.sweep import sweep
from tests.command import environment
from tests.conftest import wait_for

pytestmark = pytest.mark.fresh_start
FAULTS = 4


@pytest.mark.slow
def test_runs_under_faults_end_as_an_undisturbed_one(tmp_path: Path) -> None:
    found, _ = sweep(tmp_path, FAULTS, seed=5)
    assert len(found) == FAULTS
    for struck in found:
        assert not struck.troubles, (struck.fault, struck.what, struck.troubles)
        assert not struck.lost and not struck.corrupt, (struck.fault, struck.what)
        assert struck.equal, (struck.fault, struck.what)


@pytest.mark.parametrize("launches", [False, True])
def test_only_a_parent_without_a_launcher_may_die_of_a_request_to_stop(launches: bool, tmp_path: Path) -> None:
    scene, fault = Scene(tmp_path, "parent", "mpirun"), AskToStop()
    child = "import subprocess, time; subprocess.Popen(['sleep', '60']); time.sleep(60)"
    code = child if launches else "import time; time.sleep(60)"
    scene.process = subprocess.Popen([sys.executable, "-c", code], env=environment({RUN_ID: "parent-1"}), text=True)
    try:
        wait_for(lambda: (scene.launcher_process() is not None) == launches, 20, "launcher")
        name = fault.strike(scene, np.random.default_rng(0))
        ended = scene.process.wait(300)
        assert name and (ended in fault.codes) != launches, "it has no handlers"
    finally:
        scene.kill_all()
