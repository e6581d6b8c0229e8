"""Hostfiles as users have them, and round trips: what is written in any dialect is read as it was meant."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cluster.hosts import Host, parse_hosts, read_hosts, same_host, slurm_hosts
from harness.cluster.slurm import expand_counts, expand_nodes
from harness.errors import BadInput
from harness.launching.base import JobSpec
from harness.launching.process_job import hosts_argument

WANTED = [Host("node1", 4), Host("node2", 2)]


@pytest.mark.parametrize(
    "text",
    [
        "node1:4,node2:2",
        "node1:4, node2:2,\n",
        "node1 slots=4, node2 slots=2",
        "node1,node1,node1,node1,node2,node2",
        "node1 4 all.q@node1 UNDEFINED\nnode2 2 all.q@node2 <NULL>\n",  # Grid Engine's PE_HOSTFILE
        "node1 4\nnode2 2\n",
        "node1:2\nNODE1:2\nnode2 slots=2\n",
        "node1:1\nnode1.cluster.org:3\nnode2:2",
        f"{getpass.getuser()}@node1:4\nnode2:2",
    ],
)
def test_hosts_as_users_write_them(text: str) -> None:
    assert parse_hosts(text, "hosts") == WANTED


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_of_another_systems_editor(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "hosts").write_bytes("node1 slots=4\r\nnode2 slots=2\r\n".encode(encoding))
    assert read_hosts(tmp_path / "hosts") == WANTED


def test_names_of_one_host_are_counted_once_and_of_two_hosts_twice() -> None:
    assert parse_hosts("node1.a.org:1\nNODE1:1\nnode1:1\n", "hosts") == [Host("node1.a.org", 3)]
    assert len(parse_hosts("node1.a.org\nnode1.b.org\n", "hosts")) == 2
    assert len(parse_hosts("10.0.0.1\n10.0.0.2\n10.0.0.10\n", "hosts")) == 3
    assert not same_host("10.0", "10.0.0.1")
    assert not same_host("node1", "node10")


def test_another_users_name_is_refused_with_the_remedy() -> None:
    with pytest.raises(BadInput) as refused:
        parse_hosts("node1\nsomebody@node2 slots=2", "hosts")
    assert str(refused.value).startswith("hosts line 2: somebody@node2: ")
    assert "`Host node2` with `User somebody` below it into ~/.ssh/config" in str(refused.value)


@pytest.mark.parametrize(
    "text", ["node1 4 all.q@node1 UNDEFINED more", "node1:4 2 all.q", "node1 0 all.q", "node1 slots=2 4"]
)
def test_lines_that_are_no_dialect_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match="hosts line 1: "):
        parse_hosts(text, "hosts")


def test_hosts_in_place_of_a_file_are_told_so() -> None:
    with pytest.raises(BadInput, match="hostfile node1:2,node2:2 does not exist: it is a file that names hosts"):
        read_hosts("node1:2,node2:2")


NAMES = st.from_regex(r"[a-z][a-z0-9]{0,6}(-[a-z0-9]{1,3})?", fullmatch=True)
HOSTS = st.lists(st.builds(Host, NAMES, st.integers(1, 128)), min_size=1, max_size=6, unique_by=lambda host: host.name)
WRITERS = {
    "openmpi": lambda host: [f"{host.name} slots={host.slots}"],
    "spaced": lambda host: [f"  {host.name.upper()}   slots = {host.slots}  # {host.name}"],
    "limit": lambda host: [f"{host.name} slots={host.slots} max_slots={host.slots + 1}"],
    "mpich": lambda host: [f"{host.name}:{host.slots}"],
    "grid engine": lambda host: [f"{host.name} {host.slots} all.q@{host.name} UNDEFINED"],
    "plain": lambda host: [host.name] * host.slots,
}


DIALECTS = st.lists(st.sampled_from(sorted(WRITERS)), min_size=6, max_size=6)


@given(HOSTS, DIALECTS, st.sampled_from(["\n", "\r\n", ",", "\n\n"]))
def test_what_is_written_in_any_dialect_is_read_as_it_was_meant(hosts, dialects, between) -> None:
    lines = [line for host, dialect in zip(hosts, dialects) for line in WRITERS[dialect](host)]
    if between == ",":
        lines = [line.partition("#")[0] for line in lines]
    read = parse_hosts(between.join(lines), "hosts")
    assert [(host.name.lower(), host.slots) for host in read] == [(host.name, host.slots) for host in hosts]
    again = hosts_argument(JobSpec(("true",), 1, tuple(read), {}, "r", Path("o"), Path(".")))
    assert parse_hosts(again, "-H") == read


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        hosts = parse_hosts(text, "hosts")
    except BadInput as refused:
        assert str(refused).startswith(("hosts line ", "hostfile hosts names no host"))
    else:
        assert all(host.slots >= 1 for host in hosts)


def in_slurms_words(numbers: list[int], width: int) -> str:
    """Numbers as Slurm lists them: neighbours as a range, with zeros in front."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(f"{part[0]:0{width}d}" + (f"-{part[-1]:0{width}d}" if len(part) > 1 else "") for part in parts)


NUMBERS = st.lists(st.integers(0, 300), min_size=1, max_size=8, unique=True)
GROUP = st.tuples(st.from_regex(r"[a-z]{1,5}", fullmatch=True), NUMBERS, st.integers(1, 4))


@given(st.lists(GROUP, min_size=1, max_size=3))
def test_slurms_lists_come_back(groups: list[tuple[str, list[int], int]]) -> None:
    nodelist = ",".join(f"{name}[{in_slurms_words(numbers, width)}]" for name, numbers, width in groups)
    assert expand_nodes(nodelist) == [
        f"{name}{number:0{width}d}" for name, numbers, width in groups for number in numbers
    ]


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(1, 5)), min_size=1, max_size=5))
def test_slurms_counts_come_back(groups: list[tuple[int, int]]) -> None:
    text = ",".join(f"{count}(x{times})" if times > 1 else str(count) for count, times in groups)
    assert expand_counts(text, "NAME") == [count for count, times in groups for _ in range(times)]


@pytest.mark.parametrize("nodelist", ["n[3-1]", "n[1-100000000]"])
def test_a_range_that_is_none_is_refused(nodelist: str) -> None:
    with pytest.raises(BadInput, match="is not a range that rises"):
        slurm_hosts({"SLURM_JOB_NODELIST": nodelist})
