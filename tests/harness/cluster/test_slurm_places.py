"""Which slots Slurm's variables mean, as `salloc`, `sbatch`, `srun` and interactive shells set them."""

from __future__ import annotations

import pytest

from harness.cluster.hosts import Host, slurm_hosts
from harness.cluster.slurm import slurm_task_cores
from harness.launching.environment import launch_environment

JOB = {"SLURM_JOB_ID": "7", "SLURM_JOBID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_CPUS_PER_NODE": "2(x2)"}
ALONE = {"SLURM_JOB_NUM_NODES": "1", "SLURM_TASKS_PER_NODE": "1"}
STEP = {"SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "n1", "SLURM_STEP_NUM_TASKS": "1"}
STEP |= {"SLURM_STEP_TASKS_PER_NODE": "1"}


@pytest.mark.parametrize(
    ("env", "cores"),
    [
        # salloc -N2 --ntasks-per-node=2 srun -N1 -n1
        ({**JOB, **STEP, "SLURM_TASKS_PER_NODE": "1", "SLURM_CPUS_ON_NODE": "2", "SLURM_JOB_NUM_NODES": "2"}, 2),
        # srun -c 16 --pty bash
        ({**JOB, **STEP, "SLURM_TASKS_PER_NODE": "1", "SLURM_CPUS_PER_TASK": "16", "SLURM_CPUS_ON_NODE": "16"}, 16),
        # sbatch -c 16
        ({**JOB, **ALONE, "SLURMD_NODENAME": "n1", "SLURM_CPUS_PER_TASK": "16"}, 16),
    ],
)
def test_the_cores_of_a_task_that_is_alone_are_slots_of_a_place_like_any_machine(env: dict, cores: int) -> None:
    assert slurm_task_cores(env) == cores
    assert slurm_hosts(env) is None
    assert "SLURM_JOBID" not in launch_environment(env), "mpirun would take the job's slots instead"


@pytest.mark.parametrize(
    ("env", "hosts"),
    [
        ({**JOB, "SLURM_JOB_NUM_NODES": "2", "SLURM_TASKS_PER_NODE": "2(x2)"}, [Host("n1", 2), Host("n2", 2)]),
        # salloc -c 16, whose shell is on a login node: what can be started there is the one task
        ({**JOB, **ALONE, "SLURM_JOB_NODELIST": "n1", "SLURM_CPUS_PER_TASK": "16"}, [Host("n1", 1)]),
        # the shell of an interactive allocation is in a step with a number that is none
        (
            {**JOB, **STEP, "SLURM_STEP_ID": "4294967290", "SLURM_TASKS_PER_NODE": "2(x2)", "SLURM_CPUS_ON_NODE": "2"},
            [Host("n1", 2), Host("n2", 2)],
        ),
        # …whose srun wrote over one of the job's variables
        (
            {**JOB, **STEP, "SLURM_STEP_ID": "4294967290", "SLURM_TASKS_PER_NODE": "1", "SLURM_NTASKS_PER_NODE": "2"},
            [Host("n1", 2), Host("n2", 2)],
        ),
        # a step of several tasks
        (
            {**JOB, "SLURM_STEP_ID": "3", "SLURM_STEP_NODELIST": "n2", "SLURM_STEP_NUM_TASKS": "2",
             "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_TASKS_PER_NODE": "2"},
            [Host("n2", 2)],
        ),
    ],
)  # fmt: skip
def test_elsewhere_a_slot_is_a_task(env: dict, hosts: list[Host]) -> None:
    assert slurm_task_cores(env) is None
    assert slurm_hosts(env) == hosts
    assert launch_environment(env)["SLURM_JOBID"] == "7"
