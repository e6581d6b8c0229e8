"""A rank's place by each launcher's variables, and its slot."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from harness.cluster.machine import available_memory, free_memory
from harness.cluster.place import detect_place
from harness.cluster.slots import Slot, share_of_cores, show_one_gpu, slot_of_rank
from harness.cluster.slurm import expand_tasks_per_node
from harness.distributed.world import World, prepare_environment
from harness.errors import BadInput
from harness.training.process import flushed_denormals
from tests.command import environment, harness

MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
GLOO = {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2", "HOROVOD_LOCAL_RANK": "0", "HOROVOD_LOCAL_SIZE": "1"}
SRUN = {
    "SLURM_JOB_ID": "9",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURMD_NODENAME": "n3",
}
BATCH = {"SLURM_JOB_ID": "9", "SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURMD_NODENAME": "n1"}


def place(env: dict[str, str]) -> tuple[int, int, int, int, str]:
    found = detect_place(env)
    return found.rank, found.size, found.local_rank, found.local_size, found.launcher


def test_each_launcher_is_known_by_its_variables() -> None:
    assert place(MPIRUN) == (3, 4, 1, 2, "mpi")
    assert place(GLOO) == (1, 2, 0, 1, "gloo")
    assert place(SRUN) == (4, 5, 0, 1, "slurm")
    assert place({}) == (0, 1, 0, 1, "none")


def test_mpirun_inside_slurm_is_mpirun() -> None:
    """Its daemons are started by srun, so its ranks carry Slurm's variables too."""
    assert place({**SRUN, **MPIRUN})[-1] == "mpi"


def test_a_batch_script_is_no_rank() -> None:
    assert place(BATCH) == (0, 1, 0, 1, "none")
    assert place({**BATCH, "SLURM_STEP_ID": "extern"})[-1] == "none"


def test_a_step_of_one_task_is_alone() -> None:
    assert place({**SRUN, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NODEID": "0"})[1] == 1


def test_slurm_names_the_host_where_it_can() -> None:
    assert detect_place(SRUN).host == "n3"
    assert detect_place({}).host == socket.gethostname()


def test_tasks_per_node_are_expanded() -> None:
    assert expand_tasks_per_node("2(x3),1") == [2, 2, 2, 1]
    assert expand_tasks_per_node("4") == [4]


def test_a_slot_is_found_by_host_and_local_rank() -> None:
    env = {"HARNESS_SLOTS": "elsewhere:0,1/4;here:2,3/4"}
    assert slot_of_rank(env, "here", 0) == Slot(2, 4) and slot_of_rank(env, "here", 1) == Slot(3, 4)
    assert slot_of_rank(env, "elsewhere.example", 1) == Slot(1, 4)
    assert slot_of_rank({}, "here", 0) is None
    assert slot_of_rank({"HARNESS_SLOTS": "nowhere.invalid:0/1"}, "here", 0) is None


def test_slots_share_the_cores_and_none_is_left_out() -> None:
    cores = [0, 2, 4, 6, 8, 10, 12]
    shares = [share_of_cores(cores, Slot(index, 3)) for index in range(3)]
    assert [core for share in shares for core in share] == cores
    assert [share_of_cores([5], Slot(index, 2)) for index in range(2)] == [[5], [5]]
    crowded = [share_of_cores([0, 1, 2], Slot(index, 8))[0] for index in range(8)]
    assert max(crowded.count(core) for core in (0, 1, 2)) == 3, "more slots than cores are spread evenly"


def test_a_slot_sees_one_of_the_gpus_that_were_visible() -> None:
    env = {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}
    show_one_gpu(Slot(2, 4), env)
    assert env["CUDA_VISIBLE_DEVICES"] == "6"
    env = {"CUDA_VISIBLE_DEVICES": "4"}
    show_one_gpu(Slot(1, 2), env)
    assert env["CUDA_VISIBLE_DEVICES"] == "", "there are not enough for all: none is shared"


def test_a_command_is_confined_to_its_slot() -> None:
    cores = sorted(os.sched_getaffinity(0))
    env = environment({"HARNESS_SLOTS": "localhost:1/2", "OMPI_COMM_WORLD_LOCAL_RANK": "0"})
    tell = "import os; print(sorted(os.sched_getaffinity(0)), os.environ['HARNESS_CONFINED'])"
    command = [sys.executable, "-m", "harness.cluster.slots", sys.executable, "-c", tell]
    shown = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert shown.split("]")[0] + "]" == str(share_of_cores(cores, Slot(1, 2)))
    confined = {"HARNESS_SLOTS": "localhost:1/2", "HARNESS_CONFINED": "1"}
    assert slot_of_rank(confined, "here", 0) == Slot(0, 1), "a World in the command takes no share of its share"


@pytest.mark.parametrize(
    "env", [{"WORLD_SIZE": "2", "RANK": "1"}, {"MV2_COMM_WORLD_SIZE": "4"}, {"PMIX_RANK": "0"}], ids=str
)
def test_one_of_several_whose_launcher_is_unknown_is_refused(env: dict[str, str]) -> None:
    with pytest.raises(BadInput, match="started this process as one of several"):
        World(env)
    World({"WORLD_SIZE": "1", "RANK": "0"})


def settings_of_mpi(monkeypatch: pytest.MonkeyPatch, env: dict[str, str]) -> dict[str, str]:
    monkeypatch.setattr(os, "environ", dict(env))
    prepare_environment()
    return {name: value for name, value in os.environ.items() if name.startswith("OMPI_MCA_")}


def test_ranks_between_hosts_reduce_large_buffers_in_rings_and_users_settings_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rules = "OMPI_MCA_coll_tuned_dynamic_rules_filename"
    between = settings_of_mpi(monkeypatch, MPIRUN)
    assert Path(between[rules]).is_file() and between["OMPI_MCA_coll_tuned_use_dynamic_rules"] == "1"
    one_host = settings_of_mpi(monkeypatch, {**MPIRUN, "OMPI_COMM_WORLD_LOCAL_SIZE": "4"})
    assert rules not in one_host and one_host.items() <= between.items()
    for theirs in ("OMPI_MCA_coll_tuned_use_dynamic_rules", "OMPI_MCA_btl_tcp_rdma_pipeline_frag_size"):
        assert settings_of_mpi(monkeypatch, {**MPIRUN, theirs: "0"})[theirs] == "0"


@pytest.mark.parametrize("path", ["horovod", "mpi"])
def test_a_rank_that_finds_itself_alone_is_refused(path: str, tmp_path: Path) -> None:
    """As happens when the launcher belongs to another MPI: two tasks, each of which believes to be the only one."""
    env = {"PMI_RANK": "0", "PMI_SIZE": "2"}  # MPICH's launcher around ranks of Open MPI
    ran = harness("train", "ppo-cartpole", f"sync.path={path}", cwd=tmp_path, env=env)
    assert ran.code == 2 and "started 2 ranks" in ran.err and "rank 0 of 1" in ran.err, ran.err
    assert not (tmp_path / "runs").exists()


def test_memory_is_that_of_the_job_where_it_has_a_limit(tmp_path: Path) -> None:
    whole = available_memory(tmp_path / "nothing", tmp_path)
    groups, mounted = tmp_path / "cgroup", tmp_path / "mounted"
    (mounted / "job" / "step").mkdir(parents=True)
    groups.write_text("0::/job/step\n")
    (mounted / "job" / "step" / "memory.max").write_text("max\n")
    assert available_memory(groups, mounted) == whole
    (mounted / "job" / "memory.max").write_text("1048576\n")
    assert available_memory(groups, mounted) == 1048576  # what is above holds too
    groups.write_text("3:cpu,memory:/job\n2:cpu:/other\n")
    (mounted / "memory" / "job").mkdir(parents=True)
    (mounted / "memory" / "job" / "memory.limit_in_bytes").write_text("4096\n")
    assert available_memory(groups, mounted) == 4096


def test_free_is_what_others_and_the_limit_of_the_job_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = psutil.Process().memory_info().rss
    machine = psutil.virtual_memory()._replace(total=64 * 2**30, available=16 * 2**30)
    monkeypatch.setattr("psutil.virtual_memory", lambda: machine)
    for limit, expected in ((2**40, 16 * 2**30), (8 * 2**30, 8 * 2**30 - taken)):
        monkeypatch.setattr("harness.cluster.machine.available_memory", lambda: limit)
        assert free_memory() == pytest.approx(expected, abs=2**26)


def test_denormal_numbers_count_as_zero_within_and_not_after() -> None:
    def product() -> float:
        return float(torch.tensor(1e-30) * torch.tensor(1e-10))

    assert product() > 0
    with flushed_denormals():
        assert product() == 0
        with pytest.raises(ZeroDivisionError), flushed_denormals():
            1 // 0
        assert product() == 0, "as it was before"
    assert product() > 0
