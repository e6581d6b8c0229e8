"""Who has which slots."""

from __future__ import annotations

import pytest

from harness.errors import BadInput
from harness.launching import Host
from search.launchers.lease import Lease
from search.launchers.slots import Slots


def taken(*leases: Lease) -> list[tuple[str, int]]:
    return [(name, slot) for lease in leases for name, ids in lease.slots.items() for slot in ids]


def lease_of(slots: Slots, ranks: int) -> Lease:
    lease = slots.lease(ranks)
    assert lease is not None
    return lease


def test_leases_are_disjoint_and_come_back() -> None:
    slots = Slots([Host("a", 4)])
    first, second = lease_of(slots, 2), lease_of(slots, 2)

    assert sorted(taken(first, second)) == [("a", 0), ("a", 1), ("a", 2), ("a", 3)]
    assert slots.lease(1) is None
    slots.give_back(first)
    assert lease_of(slots, 2).slots == first.slots


def test_one_host_is_preferred_and_the_fullest_that_has_room() -> None:
    slots = Slots([Host("big", 4), Host("small", 2), Host("tiny", 1)])
    assert taken(lease_of(slots, 2)) == [("small", 0), ("small", 1)]
    assert taken(lease_of(slots, 3)) == [("big", 0), ("big", 1), ("big", 2)]


def test_ranks_spread_over_hosts_where_no_single_one_has_room() -> None:
    slots = Slots([Host("a", 2), Host("b", 3)])
    lease = lease_of(slots, 4)
    assert lease.slots == {"b": (0, 1, 2), "a": (0,)}
    assert lease.hosts == (Host("b", 3), Host("a", 1))
    assert lease.environment == "b:0,1,2/3;a:0/2"


def test_a_lease_that_was_written_down_is_the_same_when_read() -> None:
    slots = Slots([Host("a", 4), Host("b", 4)])
    lease = lease_of(slots, 6)
    again = Lease.from_json(lease.to_json())  # type: ignore[arg-type]
    assert again == lease

    restarted = Slots([Host("a", 4), Host("b", 4)])
    restarted.claim(again)
    assert set(taken(lease_of(restarted, 2))).isdisjoint(taken(again))


def test_the_slots_of_a_job_that_is_found_running_are_its_own_whatever_their_numbers() -> None:
    slots = Slots([Host("a", 4)])
    running = Lease({"a": (1, 3)}, {"a": 4})
    slots.claim(running)
    other = lease_of(slots, 2)
    assert taken(other) == [("a", 0), ("a", 2)] and slots.lease(1) is None
    slots.give_back(other)
    slots.give_back(other)
    assert slots.free == 2 and taken(lease_of(slots, 2)) == [("a", 0), ("a", 2)], "each once"


def test_slots_that_there_are_no_more_do_not_come_back() -> None:
    slots = Slots([Host("a", 2)])
    gone = Lease({"a": (1, 2, 3), "b": (0,)}, {"a": 4, "b": 1})
    slots.claim(gone)
    slots.give_back(gone)
    assert slots.free == 2


def test_more_ranks_than_slots_are_refused() -> None:
    with pytest.raises(BadInput, match=r"trial.ranks must be <= 3, .*a has 1, b has 2.*, got 4"):
        Slots([Host("a", 1), Host("b", 2)]).check(4)
