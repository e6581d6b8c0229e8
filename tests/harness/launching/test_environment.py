"""What a job's environment keeps, loses and gains."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from harness.launching.environment import forwarded, inside_launcher, launch_environment, scrubbed

# What Open MPI 4.1.8 gave a rank, and horovodrun on Gloo another
OF_MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "0",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_MCA_ess": "^singleton",
    "OMPI_MCA_initial_wdir": "/work",
    "OMPI_MCA_mpi_oversubscribe": "0",
    "OMPI_MCA_orte_hnp_uri": "1.0;tcp://192.0.2.2:54311",
    "OMPI_MCA_pmix": "^s1,s2,cray,isolated",
    "PMIX_RANK": "0",
    "PMIX_SERVER_URI3": "1.0;tcp4://127.0.0.1:43627",
}
OF_HOROVODRUN = {
    "HOROVOD_RANK": "1",
    "HOROVOD_LOCAL_SIZE": "2",
    "HOROVOD_CROSS_RANK": "0",
    "HOROVOD_HOSTNAME": "localhost",
    "HOROVOD_CONTROLLER": "gloo",
    "HOROVOD_CPU_OPERATIONS": "gloo",
    "HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1",
    "HOROVOD_GLOO_RENDEZVOUS_PORT": "3759",
    "HOROVOD_GLOO_IFACE": "lo",
}
OF_USERS = {
    "HOME": "/home/me",
    "OMPI_MCA_btl": "tcp,self",
    "OMPI_MCA_plm_rsh_args": "-p 2222",
    "HOROVOD_CYCLE_TIME": "5",
    "HOROVOD_FUSION_THRESHOLD": "0",
    "HOROVOD_GLOO_TIMEOUT_SECONDS": "60",
}


def test_what_outer_launchers_told_their_ranks_is_taken_out_and_users_settings_stay() -> None:
    assert scrubbed({**OF_MPIRUN, **OF_HOROVODRUN, **OF_USERS, "BASH_FUNC_module%%": "() {"}) == OF_USERS


def test_settings_that_mpirun_also_makes_are_the_users_outside_of_it() -> None:
    assert "OMPI_MCA_orte_tmpdir_base" in scrubbed({"OMPI_MCA_orte_tmpdir_base": "/scratch"})


def test_a_launch_gets_this_environments_programs_and_polite_ranks() -> None:
    env = launch_environment({"PATH": "/usr/bin"})
    own = str(Path(sys.executable).parent)
    assert env["PATH"] == f"{own}:/usr/bin"
    assert launch_environment({"PATH": f"/usr/bin:{own}"})["PATH"] == env["PATH"]
    assert env["OMPI_MCA_mpi_yield_when_idle"] == "1"
    assert 0.1 <= float(env["HOROVOD_CYCLE_TIME"]) <= 1
    assert ("OMPI_ALLOW_RUN_AS_ROOT" in env) == (os.geteuid() == 0)
    assert "SLURM_OVERLAP" not in env


def test_a_users_settings_go_before_ours() -> None:
    theirs = {"OMPI_MCA_mpi_yield_when_idle": "0", "HOROVOD_CYCLE_TIME": "5"}
    theirs["OMPI_MCA_btl_tcp_rdma_pipeline_frag_size"] = "4096"
    env = launch_environment(theirs)
    assert {name: env[name] for name in theirs} == theirs


def test_inside_slurm_steps_may_overlap() -> None:
    assert launch_environment({"SLURM_JOB_ID": "7"})["SLURM_OVERLAP"] == "1"


def test_other_hosts_get_all_but_what_describes_this_one() -> None:
    ours = {"HOSTNAME": "a", "SLURM_PROCID": "0", "SSH_TTY": "/dev/pts/1", "TMPDIR": "/t", "CUDA_VISIBLE_DEVICES": "0"}
    env = {**ours, "PATH": "/bin", "HOME": "/home/me", "HARNESS_RUN_ID": "r"}
    assert forwarded(env, {}) == ["HARNESS_RUN_ID", "HOME", "PATH"]
    assert "TMPDIR" in forwarded(env, {"TMPDIR": "/t"})


@pytest.mark.parametrize(
    ("env", "launcher"),
    [
        ({"PATH": "/bin"}, None),
        (OF_MPIRUN, "mpirun"),
        (OF_HOROVODRUN, "horovodrun"),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, "mpirun"),
        ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, None),  # a batch script
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}, "srun"),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1", "PMI_RANK": "0"}, None),  # a shell
    ],
)
def test_the_launcher_around_us_is_named(env: dict[str, str], launcher: str | None) -> None:
    assert inside_launcher(env) == launcher
