"""A host that goes, or was never there, costs its trial's start and not the study."""

from __future__ import annotations

import shutil
from typing import Any

from harness.launching import Host
from harness.launching.outcome import read_outcome
from search.launchers.slots import Slots
from tests.conftest import need


def test_a_host_that_went_gives_no_slots_any_more() -> None:
    slots = Slots([Host("n1", 2), Host("n2", 2)])
    lease = slots.lease(3)
    assert lease is not None and slots.leave_out("N2.cluster") == "n2" and slots.leave_out("n3") is None
    slots.give_back(lease)
    assert (slots.total, slots.free) == (2, 2)
    assert slots.lease(3) is None
    assert Slots([Host("localhost", 2)]).leave_out("localhost") is None, "the launchers themselves run here"


def test_a_host_that_cannot_be_reached_is_known_from_what_launchers_say() -> None:
    for said in (
        "ssh: connect to host n2 port 22: No route to host",
        "ssh: Could not resolve hostname n2: Name or service not known",
        "ssh not successful for host n2:",
    ):
        assert read_outcome(said + "\n", 255, ["n1", "n2"]).lost_host == "n2"
    assert read_outcome("[1,1]<stderr>:ssh: connect to host n2 port 22: no\n", 1, ["n1", "n2"]).lost_host is None


def test_a_study_goes_on_without_a_host_that_cannot_be_reached(workplace: Any) -> None:
    need(shutil.which("ssh"), "ssh is not installed")
    (workplace.path / "hosts").write_text("localhost slots=2\nno-such-host.invalid slots=2\n")
    workplace.plan(all={"steps": 1})
    workplace.study_file(study={"trials": 3})

    said = workplace.run("--hostfile", "hosts")

    assert "host no-such-host.invalid is left out for the rest of this run: 2 slots remain" in said
    assert workplace.states().count("COMPLETE") == 3 and workplace.states().count("FAIL") == 1
    (lost,) = [trial for trial in workplace.trials() if trial.state.name == "FAIL"]
    again = [trial for trial in workplace.trials() if trial.user_attrs.get("again") == lost.number]
    assert [trial.params for trial in again] == [lost.params]
