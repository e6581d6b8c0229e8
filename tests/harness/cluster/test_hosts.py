"""Hosts and slots from hostfiles in every dialect, from Slurm's variables and from this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.cluster.hosts import Host, available_hosts, claim_slots, local_hosts, parse_hosts, read_hosts, slurm_hosts
from harness.cluster.slurm import expand_counts, expand_nodes
from harness.errors import BadInput

HOSTFILES = Path(__file__).parents[3] / "hostfiles"


@pytest.mark.parametrize(
    "text",
    [
        "a slots=4\nb slots=2\n",  # Open MPI and Horovod
        "a slots=4 max_slots=8\nb max-slots=2\n",
        "a:4\nb:2\n",  # MPICH
        "a\nb\na\na\nb\na\n",  # a line for each slot
        "# the rack\n\n  a  slots = 4   # left\n\t\nb:2\r\n",
        "a slots=1\na slots=3\nb:1\nb\n",  # lines of one host add up, whatever their dialect
    ],
)
def test_every_dialect_gives_the_same_hosts(text: str) -> None:
    assert parse_hosts(text, "hosts") == [Host("a", 4), Host("b", 2)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a slots=0", "slots must be a whole number of at least 1, got '0'"),
        ("a slots=-2", "got '-2'"),
        ("a slots=two", "got 'two'"),
        ("a:0", "got '0'"),
        ("a:", "got ''"),
        ("a slots=4 max_slots=2", "max_slots=2 is less than slots=4"),
        ("a:4 slots=2", "the slots of a are given twice"),
        ("a slots", "'slots' is not understood"),
        ("a slot_count=4", "'slot_count=4' is not understood; a line may be `host`, `host slots=4`"),
        ("user@a slots=2", "write a here, and `Host a` with `User user` below it into ~/.ssh/config"),
        ("^a", "'^a' is not a host name"),
        ("[fe80::1]:4", "IPv6 address"),
        ("fe80::1", "IPv6 address"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, line: str, said: str) -> None:
    hostfile = tmp_path / "hosts"
    hostfile.write_text(f"good slots=1\n{line}\n")

    with pytest.raises(BadInput) as refused:
        read_hosts(hostfile)

    assert str(refused.value).startswith(f"{hostfile} line 2: ")
    assert said in str(refused.value)


def test_a_missing_hostfile_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"hostfile {tmp_path}/none does not exist"):
        read_hosts(tmp_path / "none")


@pytest.mark.parametrize("text", ["", "\n\n", "# a slots=4\n"])
def test_a_hostfile_without_hosts_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "hosts").write_text(text)
    with pytest.raises(BadInput, match="names no host; a line may be `host`"):
        read_hosts(tmp_path / "hosts")


def test_the_shipped_hostfiles_can_be_read() -> None:
    shipped = {path.name: read_hosts(path) for path in sorted(HOSTFILES.glob("*.hosts"))}
    assert shipped["one-machine.hosts"] == [Host("localhost", 2)]
    same = [Host("node1", 4), Host("node2", 4), Host("node3", 2)]
    assert [shipped[f"{dialect}.hosts"] for dialect in ("openmpi", "horovod", "mpich", "plain")] == [same] * 4


def test_slurm_lists_of_nodes_are_expanded() -> None:
    assert expand_nodes("n[1-3,07-09],m2") == ["n1", "n2", "n3", "n07", "n08", "n09", "m2"]
    assert expand_nodes("r[1-2]n[01-02]-ib") == ["r1n01-ib", "r1n02-ib", "r2n01-ib", "r2n02-ib"]
    assert expand_nodes("n[8-11]") == ["n8", "n9", "n10", "n11"]
    assert expand_nodes("single.domain") == ["single.domain"]


def test_slurm_counts_are_expanded() -> None:
    assert expand_counts("2(x3),1", "NAME") == [2, 2, 2, 1]


@pytest.mark.parametrize("nodelist", ["n[1-", "n[a-b]", "n[]", "n 1", "n[1]]"])
def test_a_list_of_nodes_that_is_none_is_refused(nodelist: str) -> None:
    with pytest.raises(BadInput, match="SLURM_JOB_NODELIST="):
        expand_nodes(nodelist)


@pytest.mark.parametrize("counts", ["", "2(x", "0", "a(x2)"])
def test_counts_that_are_none_are_refused(counts: str) -> None:
    with pytest.raises(BadInput, match="SLURM_TASKS_PER_NODE"):
        expand_counts(counts, "SLURM_TASKS_PER_NODE")


@pytest.mark.parametrize(
    ("variables", "slots"),
    [
        ({"SLURM_TASKS_PER_NODE": "2(x2),1", "SLURM_JOB_CPUS_PER_NODE": "8(x3)"}, [2, 2, 1]),
        ({"SLURM_JOB_CPUS_PER_NODE": "8(x2),4"}, [8, 8, 4]),
        ({"SLURM_JOB_CPUS_PER_NODE": "8(x2),4", "SLURM_CPUS_PER_TASK": "4"}, [2, 2, 1]),
        ({"SLURM_CPUS_ON_NODE": "6"}, [6, 6, 6]),
    ],
)
def test_an_allocation_gives_a_slot_for_each_task_or_core(variables: dict[str, str], slots: list[int]) -> None:
    hosts = slurm_hosts({"SLURM_JOB_NODELIST": "n[1-3]", **variables})
    assert hosts == [Host(f"n{number}", count) for number, count in enumerate(slots, start=1)]


def test_outside_of_slurm_there_is_no_allocation() -> None:
    assert slurm_hosts({"SLURM_CONF": "/etc/slurm.conf"}) is None


def test_a_hostfile_goes_before_the_allocation_and_that_before_this_machine(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("a:3")
    slurm = {"SLURM_JOB_NODELIST": "n1", "SLURM_TASKS_PER_NODE": "2"}
    assert available_hosts(tmp_path / "hosts", slurm) == [Host("a", 3)]
    assert available_hosts(None, slurm) == [Host("n1", 2)]
    assert available_hosts(None, {}) == local_hosts()


def test_this_machine_has_a_slot_for_each_core_that_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert local_hosts() == [Host("localhost", 1)]
    finally:
        os.sched_setaffinity(0, allowed)
    assert local_hosts(3) == [Host("localhost", 3)]


def test_slots_are_taken_in_the_order_of_the_hosts() -> None:
    hosts = [Host("a", 2), Host("b", 2), Host("c", 2)]
    assert claim_slots(hosts, 3) == (Host("a", 2), Host("b", 1))
    assert claim_slots([Host("a", 1), Host("b", 1), Host("a", 1)], 2) == (Host("a", 2),)


def test_more_ranks_than_slots_are_refused_with_both_numbers_and_the_remedy() -> None:
    with pytest.raises(BadInput) as refused:
        claim_slots([Host("a", 2), Host("b", 1)], 5, "hosts.txt")
    assert str(refused.value).startswith("5 ranks are more than the 3 slots of hosts.txt (a:2, b:1): ask for at most 3")


def test_less_than_one_rank_is_refused() -> None:
    with pytest.raises(BadInput, match="ranks must be at least 1, got 0"):
        claim_slots([Host("a", 2)], 0)
