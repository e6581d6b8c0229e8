"""A container's CPU quota and visible devices: slots, threads and pinning obey them, on both versions of cgroups."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cluster import machine
from harness.cluster.hosts import local_hosts
from harness.cluster.machine import cpu_quota, within_quota
from harness.cluster.slots import local_slots, visible_gpus
from tests.conftest import need


def groups(folder: Path, line: str, files: dict[str, str]) -> dict[str, Path]:
    (folder / "cgroup").write_text(line + "\n")
    for name, text in files.items():
        path = folder / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {"groups": folder / "cgroup", "mounted": folder / "fs"}


@pytest.mark.parametrize(
    ("line", "files", "quota"),
    [
        ("0::/", {"cpu.max": "50000 100000\n"}, 0.5),
        ("0::/", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b", {"cpu.max": "max 100000", "a/cpu.max": "150000 100000", "a/b/cpu.max": "400000 100000"}, 1.5),
        ("0::/elsewhere/on/the/host", {"cpu.max": "200000 100000"}, 2.0),  # a namespace: the root is our own group
        ("3:cpu,net:/x", {"cpu,net/x/cpu.cfs_quota_us": "250000", "cpu,net/x/cpu.cfs_period_us": "100000"}, 2.5),
        ("3:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "50000"}, 1.0),
        ("3:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("3:cpuset:/", {"cpu/cpu.cfs_quota_us": "1000", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("nonsense", {}, None),
    ],
)
def test_a_quota_is_read_from_both_versions(tmp_path: Path, line: str, files: dict, quota: float | None) -> None:
    assert cpu_quota(**groups(tmp_path, line, files)) == quota
    assert cpu_quota(tmp_path / "none", tmp_path / "none") is None


def test_slots_and_threads_are_what_a_quota_is_worth() -> None:
    assert [within_quota(8, 1, quota) for quota in (0.5, 1.0, 2.9, 3.999, 64.0)] == [1, 1, 2, 4, 8]
    assert [within_quota(8, 4, quota) for quota in (2.0, 4.0, 9.0, 64.0)] == [1, 1, 2, 8]


def test_slots_of_this_machine_follow_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_cores", lambda: list(range(16)))
    monkeypatch.setattr(machine, "cpu_quota", lambda: 6.0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [host.slots for host in local_hosts()] == [6]
    assert (local_slots(), local_slots(cores_per_slot=2)) == (6, 3)
    monkeypatch.setattr(machine, "cpu_quota", lambda: 0.5)
    assert local_slots() == 1


TELL = (
    "import json, os\nfrom harness.cluster.hosts import local_hosts\nfrom harness.distributed.world import World\n"
    "print(json.dumps([local_hosts()[0].slots, World().cores, sorted(os.sched_getaffinity(0)),"
    " os.environ.get('OMP_NUM_THREADS')]))"
)


@pytest.mark.fresh_start
def test_ranks_in_a_real_group_of_a_core_and_a_half() -> None:
    """As in a container of a core and a half: one slot, one thread, and the rank may run on every core."""
    need(os.geteuid() == 0 and Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").exists(), "cgroups of version 1, as root")
    group = Path(f"/sys/fs/cgroup/cpu/harness-{os.getpid()}")
    group.mkdir()
    try:
        (group / "cpu.cfs_quota_us").write_text("150000")
        enter = f'echo $$ > {group}/cgroup.procs && exec "$@"'
        bare = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
        env = {**bare, "HARNESS_SLOTS": "localhost:0/1"}
        inside = ["sh", "-c", enter, "sh", sys.executable, "-m", "harness.cluster.slots", sys.executable, "-c", TELL]
        done = subprocess.run(inside, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        cores = sorted(os.sched_getaffinity(0))
        one = "1" if len(cores) > 1 else None
        assert json.loads(done.stdout) == [1, 1, cores, one]
    finally:
        group.rmdir()


@pytest.mark.parametrize(
    ("env", "seen"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,2"}, ["0", "2"]),
        ({"CUDA_VISIBLE_DEVICES": " 0, 1 "}, ["0", "1"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, []),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, []),
        ({"CUDA_VISIBLE_DEVICES": "0,-1,1"}, ["0"]),  # CUDA sees nothing behind one that is none
        ({"CUDA_VISIBLE_DEVICES": "0,0"}, ["0"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8932f937,MIG-4,1"}, ["GPU-8932f937", "MIG-4", "1"]),
        ({"NVIDIA_VISIBLE_DEVICES": "none"}, []),
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, []),
    ],
)
def test_the_gpus_are_those_that_cuda_shows(env: dict[str, str], seen: list[str]) -> None:
    assert visible_gpus(env) == seen
