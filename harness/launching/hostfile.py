"""Hosts and their slots: from a hostfile in any dialect that users have, from a Slurm allocation, or this machine.

The dialects (hostfiles/README.md shows each): Open MPI `host slots=4 max_slots=8`, Horovod `host slots=4`, MPICH
`host:4`, and a bare `host`, one slot for each line. Pure functions of text and environment; refusals name the place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from harness.errors import BadInput

NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
FORMS = "`host`, `host slots=4`, `host slots=4 max_slots=8` or `host:4`"


@dataclass(frozen=True)
class Host:
    """A host that ranks may be started on, and how many."""

    name: str
    slots: int


def read_hosts(path: str | Path) -> list[Host]:
    """The hosts of a hostfile, in its order. BadInput names file and line."""
    path = Path(path)
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise BadInput(f"hostfile {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"hostfile {path} cannot be read: {error}") from None
    return parse_hosts(text, str(path))


def parse_hosts(text: str, source: str) -> list[Host]:
    """The hosts in a hostfile's text. A host on several lines has the sum of their slots, as Open MPI adds them."""
    hosts = []
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.partition("#")[0].strip()
        if line:
            hosts.append(_parse_line(line, f"{source} line {number}"))
    if not hosts:
        raise BadInput(f"hostfile {source} names no host; a line may be {FORMS}")
    return merge_hosts(hosts)


def merge_hosts(hosts: Iterable[Host]) -> list[Host]:
    """Each host once, in the order of first mention, with all of its slots."""
    slots: dict[str, int] = {}
    for host in hosts:
        slots[host.name] = slots.get(host.name, 0) + host.slots
    return [Host(name, count) for name, count in slots.items()]


def _parse_line(line: str, where: str) -> Host:
    word, *options = re.sub(r"\s*=\s*", "=", line).split()
    name, colon, count = word.partition(":")
    if word.startswith("[") or ":" in count:
        raise BadInput(f"{where}: {word} is an IPv6 address, which mpirun and horovodrun do not take: give a host name")
    if not NAME.fullmatch(name):
        raise BadInput(f"{where}: {word!r} is not a host name (letters, digits, dots, hyphens); a line may be {FORMS}")
    slots = _count(count, "slots", where) if colon else None
    limit = None
    for option in options:
        key, equals, value = option.partition("=")
        if key in ("slots", "slot", "cpu", "cpus", "count") and equals:
            if slots is not None:
                raise BadInput(f"{where}: the slots of {name} are given twice")
            slots = _count(value, key, where)
        elif key in ("max_slots", "max-slots", "slots_max", "slots-max") and equals:
            limit = _count(value, key, where)
        else:
            raise BadInput(f"{where}: {option!r} is not understood; a line may be {FORMS}")
    # Open MPI takes max_slots alone as both
    slots = slots if slots is not None else limit if limit is not None else 1
    if limit is not None and limit < slots:
        raise BadInput(f"{where}: max_slots={limit} is less than slots={slots}")
    return Host(name, slots)


def _count(text: str, what: str, where: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise BadInput(f"{where}: {what} must be a whole number of at least 1, got {text!r}")
    return int(text)


def slurm_hosts(env: Mapping[str, str]) -> list[Host] | None:
    """The hosts of the Slurm allocation that `env` describes; None outside of one.

    A slot is a task (SLURM_TASKS_PER_NODE, what `--ntasks-per-node` asks for), else SLURM_CPUS_PER_TASK cores.
    """
    nodelist = env.get("SLURM_JOB_NODELIST") or env.get("SLURM_NODELIST")
    if not nodelist:
        return None
    names = expand_nodes(nodelist)
    if env.get("SLURM_TASKS_PER_NODE"):
        counts = expand_counts(env["SLURM_TASKS_PER_NODE"], "SLURM_TASKS_PER_NODE")
    else:
        per_task = _count(env.get("SLURM_CPUS_PER_TASK") or "1", "SLURM_CPUS_PER_TASK", "the Slurm allocation")
        if env.get("SLURM_JOB_CPUS_PER_NODE"):
            cpus = expand_counts(env["SLURM_JOB_CPUS_PER_NODE"], "SLURM_JOB_CPUS_PER_NODE")
        else:  # set on each node for itself: all that is known of the others
            cpus = expand_counts(env.get("SLURM_CPUS_ON_NODE") or "1", "SLURM_CPUS_ON_NODE") * len(names)
        counts = [max(1, count // per_task) for count in cpus]
    if len(counts) != len(names):
        raise BadInput(f"the Slurm allocation names {len(names)} nodes ({nodelist}) and slots of {len(counts)}")
    return [Host(name, count) for name, count in zip(names, counts)]


def expand_nodes(nodelist: str) -> list[str]:
    """`n[1-3,07-09],m2` as n1 n2 n3 n07 n08 n09 m2: Slurm's notation, zeros and several brackets in a name included."""
    names = []
    for item in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", nodelist):
        pieces = [_expand_range(piece, nodelist) for piece in re.findall(r"\[[^\]]*\]|[^\[]+", item)]
        names += ["".join(parts) for parts in product(*pieces)]
    for name in names:
        if not NAME.fullmatch(name):
            raise BadInput(f"SLURM_JOB_NODELIST={nodelist} is not a list of nodes such as n[1-3,7],m2")
    return names


def _expand_range(piece: str, nodelist: str) -> list[str]:
    if not piece.startswith("["):
        return [piece]
    numbers = []
    for part in piece[1:-1].split(","):
        bounds = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not bounds:
            raise BadInput(f"SLURM_JOB_NODELIST={nodelist}: [{part}] is not a number or a range such as 1-3")
        first, last = bounds[1], bounds[2] or bounds[1]
        numbers += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return numbers


def expand_counts(text: str, name: str) -> list[int]:
    """`2(x3),1` as 2 2 2 1: Slurm's notation for a number per node."""
    counts = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if not found or int(found[1]) < 1:
            raise BadInput(f"{name}={text} is not a list of numbers such as 2(x3),1")
        counts += [int(found[1])] * int(found[2] or 1)
    return counts


def local_hosts(slots: int | None = None) -> list[Host]:
    """This machine alone: `slots`, or a slot for each core that this process may use."""
    return [Host("localhost", slots or len(os.sched_getaffinity(0)))]


def available_hosts(hostfile: str | Path | None, env: Mapping[str, str]) -> list[Host]:
    """Where ranks may run: the hostfile's hosts, else those of the Slurm allocation around us, else this machine."""
    if hostfile is not None:
        return read_hosts(hostfile)
    return slurm_hosts(env) or local_hosts()


def take_slots(hosts: Sequence[Host], ranks: int, source: str = "the hosts") -> tuple[Host, ...]:
    """The first `ranks` slots of `hosts`, in order; BadInput where there are fewer. `source` names the hosts in it."""
    hosts = merge_hosts(hosts)
    total = sum(host.slots for host in hosts)
    if ranks < 1:
        raise BadInput(f"ranks must be at least 1, got {ranks}")
    if ranks > total:
        listed = ", ".join(f"{host.name}:{host.slots}" for host in hosts[:8]) + (", …" if len(hosts) > 8 else "")
        remedy = f"ask for at most {total}, or name more hosts or slots (`--hostfile`, a line may be `host slots=4`)"
        raise BadInput(f"{ranks} ranks are more than the {total} slots of {source} ({listed}): {remedy}")
    taken: list[Host] = []
    for host in hosts:
        share = min(host.slots, ranks - sum(other.slots for other in taken))
        if share:
            taken.append(Host(host.name, share))
    return tuple(taken)
