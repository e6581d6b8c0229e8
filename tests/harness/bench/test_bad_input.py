"""Bad input to `harness bench`: one line on standard error that says what it may be, exit code 2, nothing started."""

from __future__ import annotations

import pytest

from harness.__main__ import main
from harness.bench.arguments import rank_counts, size_in_bytes

ONE_ENVIRONMENT = ["env.count=1", "algorithm.minibatch_size=32"]

CASES = {
    "an unknown bench": (["latency"], ["'latency'", "allreduce", "scaling"]),
    "an unknown preset": (["throughput", "ppo-cartpol"], ["ppo-cartpol", "did you mean ppo-cartpole?"]),
    "an unknown setting": (["scaling", "ppo-cartpole", "optimizer.lrr=1"], ["did you mean optimizer.lr?"]),
    "ranks that are no number": (["allreduce", "--ranks", "two"], ["--ranks", "'two'", "2,4"]),
    "ranks with an empty place": (["scaling", "ppo-cartpole", "--ranks", "1,,2"], ["--ranks", "'1,,2'"]),
    "no ranks": (["throughput", "ppo-cartpole", "--ranks", "0"], ["--ranks", ">= 1", "'0'"]),
    "a sum over one rank": (["allreduce", "--ranks", "1"], ["--ranks", ">= 2"]),
    "more ranks than slots": (["allreduce", "--ranks", "5000"], ["5000 ranks are more than", "--hostfile"]),
    "fewer environments than ranks": (
        ["throughput", "ppo-cartpole", *ONE_ENVIRONMENT, "--ranks", "2"],
        ["env.count", "at least the number of ranks, 2", "got 1"],
    ),
    "fewer environments than ranks, weak scaling aside": (
        ["scaling", "ppo-cartpole", *ONE_ENVIRONMENT, "--ranks", "1,2"],
        ["env.count", "at least the number of ranks, 2", "got 1"],
    ),
    "a size that is none": (["allreduce", "--max-size", "big"], ["--max-size", "'big'", "64KB"]),
    "a size below the smallest": (["allreduce", "--max-size", "1KB"], ["--max-size", "at least 4KB"]),
    "no repeats": (["allreduce", "--repeats", "0"], ["--repeats", ">= 1", "0"]),
    "no time": (["throughput", "ppo-cartpole", "--seconds", "0"], ["--seconds", "> 0"]),
    "a return that is no number": (["scaling", "ppo-cartpole", "--until", "good"], ["--until", "'good'"]),
    "an unknown launcher": (["allreduce", "--launcher", "srunn"], ["horovodrun-gloo, mpirun", "'srunn'"]),
    "a launcher without MPI, for MPI": (["allreduce", "--launcher", "horovodrun-gloo"], ["horovodrun or mpirun"]),
    "a hostfile without ranks": (["throughput", "ppo-cartpole", "--hostfile", "h"], ["--hostfile", "--ranks"]),
    "a folder for figures": (["allreduce", "--json", "/"], ["--json", "must be a file"]),
    "a file as folder": (["allreduce", "--json", "/dev/null/a.json"], ["--json", "must be a file"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_exit_code_2(case, capsys, monkeypatch, tmp_path):
    arguments, said = CASES[case]
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("harness: ")
    for part in said:
        assert part in err


def test_a_rank_of_a_launcher_starts_no_ranks_itself(capsys, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    assert main(["bench", "allreduce"]) == 2
    assert "this process is a rank of mpirun already" in capsys.readouterr().err


def test_numbers_of_ranks_and_sizes_are_read_as_people_write_them():
    assert rank_counts("4,1, 2,1", least=1) == [1, 2, 4]
    sizes = {"4096": 4096, "4096B": 4096, "64KB": 65536, "64k": 65536, "16M": 16777216, "256MB": 268435456}
    assert {text: size_in_bytes(text, least=4096) for text in sizes} == sizes
