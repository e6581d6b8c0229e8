"""The parent's side of a bench: it starts ranks of a task, waits for them, and reads what rank 0 found."""

from __future__ import annotations

import base64
import json
import os
import tempfile
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.cluster.handshake import Handshake
from harness.errors import BadInput
from harness.files import plain, read_json, write_json
from harness.launching import Host, JobSpec, available_hosts, claim_slots, get_launcher, inside_launcher
from harness.launching.outcome import split_output
from harness.launching.own_module import python_module
from harness.lifecycle.signals import StopRequests
from harness.run.supervision import Overdue, Supervision, supervise
from harness.run.supervisor import default_launcher

POLL_SECONDS = 0.05
MARK, PIECE = "BENCH-FOUND ", 200
"""Begins a line of what rank 0 hands over by its output where it is on another host, and the most that a line holds:
launchers cut longer ones and put other ranks' lines in between."""


class Failed(Exception):
    """Ranks of a bench ended without a figure: one line that says who and how."""


class Stopped(Exception):
    """A signal asked this process to end while ranks were measuring."""


@dataclass(frozen=True)
class Places:
    """Where a bench may start ranks, and by what."""

    launcher: str
    hosts: tuple[Host, ...]

    @classmethod
    def find(cls, ranks: list[int], hostfile: str | None, launcher: str | None) -> Places:
        """BadInput where this process is a rank itself, or for more ranks than slots."""
        outer = inside_launcher(os.environ)
        if outer is not None:
            raise BadInput(f"this bench starts ranks itself, but this process is a rank of {outer} already")
        hosts = tuple(available_hosts(hostfile, os.environ))
        for count in ranks:
            claim_slots(hosts, count, hostfile or "this machine")
        name = launcher or default_launcher(os.environ)
        get_launcher(name)
        return cls(name, hosts)


def run_on_ranks(
    places: Places, ranks: int, task: str, arguments: Mapping[str, Any], env: Mapping[str, str], seconds: float
) -> Any:
    """What `task` (a name in harness/bench/rank.py) found on `ranks` ranks, called with `arguments`.

    Raises BadInput for what the ranks or their launcher refuse, Failed where they die or take longer than `seconds`,
    Stopped on a signal. Nothing of them is left in any case.
    """
    starter = get_launcher(places.launcher)
    starter.check(places.hosts)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, StopRequests() as requests:
        answer = Path(folder) / "found.json"
        spec = JobSpec(
            command=(*python_module("harness.bench.rank"), packed([task, arguments, str(answer)])),
            ranks=ranks,
            hosts=places.hosts,
            env={**Handshake(has_parent=True).variables(), "PYTHONUNBUFFERED": "1", **env},
            run_id=f"bench-{uuid.uuid4().hex[:12]}",
            output=Path(folder) / "output.log",
            cwd=Path.cwd(),
        )
        supervision = Supervision(starter.start(spec), silence_seconds=seconds)
        outcome = supervise(supervision, requests, poll_seconds=POLL_SECONDS)
        if supervision.cause is Overdue.STOP:
            raise Stopped(f"stopped by {requests.received}: nothing is written")
        if supervision.cause is Overdue.SILENCE:
            raise Failed(f"{ranks} ranks by {places.launcher} did not end within {seconds:.0f} s")
        found = read_json(answer)
        if found is None:
            found = read_lines(split_output(spec.output.read_text(errors="replace"))[1].get(0, []))
    if outcome.exit_code == 0 and found is not None:
        return found
    refused = [line.removeprefix("harness: ") for line in outcome.last_lines if line.startswith("harness: ")]
    if outcome.exit_code == 2 and refused:
        raise BadInput(refused[-1])
    how = outcome.describe() if outcome.exit_code else "they ended without a figure"
    raise Failed(f"{ranks} ranks by {places.launcher}: {how}")


def packed(value: Any) -> str:
    """`value` as a word that no shell changes."""
    return base64.urlsafe_b64encode(zlib.compress(json.dumps(value).encode())).decode()


def unpacked(word: str) -> Any:
    return json.loads(zlib.decompress(base64.urlsafe_b64decode(word)))


def hand_over(found: Any, answer: Path) -> None:
    """In rank 0: writes the parent's file where its folder is in reach, and prints otherwise."""
    if answer.parent.is_dir():
        write_json(answer, found)
        return
    word = packed(plain(found))
    lines = [f"{MARK}{word[start : start + PIECE]}" for start in range(0, len(word), PIECE)]
    print("", *lines, sep="\n", flush=True)


def read_lines(lines: Sequence[str]) -> Any:
    """What rank 0 printed; None where it did not."""
    pieces = [line.removeprefix(MARK) for line in lines if line.startswith(MARK)]
    try:
        return unpacked("".join(pieces)) if pieces else None
    except (ValueError, zlib.error):
        raise Failed("what rank 0 found was lost on its way through the launcher") from None
