"""What a process is told by whoever started it: read once, and given on as it was read."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cluster.handshake import Handshake
from harness.errors import BadInput


def test_nobody_has_said_anything() -> None:
    assert Handshake.read({}) == Handshake() and not Handshake().watched
    assert Handshake().variables() == {}


@pytest.mark.parametrize(
    "given",
    [
        Handshake(has_parent=True, seconds_spent=12.5, registration=Path("/tmp/it.pkl")),
        Handshake(trial_dir=Path("/studies/s/trial-00001"), attempt=3, seed_index=2),
    ],
)
def test_what_is_given_is_read_and_says_that_somebody_watches(given: Handshake) -> None:
    assert Handshake.read(given.variables()) == given and given.watched


def test_horovod_says_that_ranks_come_and_go() -> None:
    assert Handshake.read({"HOROVOD_ELASTIC": "1"}).elastic and not Handshake.read({"HOROVOD_ELASTIC": "0"}).elastic


@pytest.mark.parametrize("name", ["HARNESS_ATTEMPT", "HARNESS_SEED_INDEX", "HARNESS_SECONDS_SPENT"])
def test_what_is_no_number_is_refused_by_name(name: str) -> None:
    with pytest.raises(BadInput, match=f"{name} must be a .*number.*'two'"):
        Handshake.read({name: "two"})
