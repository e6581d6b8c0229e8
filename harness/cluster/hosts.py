"""Hosts and their slots: from a hostfile in any dialect that users have, from a Slurm allocation, or this machine.

The dialects (hostfiles/README.md shows each): Open MPI `host slots=4 max_slots=8`, Horovod `host slots=4`, MPICH
`host:4`, Grid Engine `host 4 all.q@host UNDEFINED`, and a bare `host`, one slot for each line; several hosts of a line
have commas between them. Pure functions of text and environment; refusals name the place.
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.cluster.machine import usable_cores
from harness.cluster.slurm import NAME, expand_counts, expand_nodes, slurm_step, slurm_task_cores
from harness.errors import BadInput

ADDRESS = re.compile(r"\d+(\.\d+){3}")
FORMS = "`host`, `host slots=4`, `host slots=4 max_slots=8` or `host:4`"
MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
"""How a text file may begin, by what editors of other systems write, and what it then is."""


@dataclass(frozen=True)
class Host:
    """A host that ranks may be started on, and how many."""

    name: str
    slots: int


def read_hosts(path: str | Path) -> list[Host]:
    """The hosts of a hostfile, in its order. BadInput names file and line."""
    path = Path(path)
    try:
        content = path.read_bytes()
        encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
        text = content.decode(encoding)
    except FileNotFoundError:
        hint = ""
        if NAME.fullmatch(re.split(r"[:,]", str(path))[0]) and re.search(r"[:,]", str(path)):
            hint = ": it is a file that names hosts, such as a line `host:4` for each"
        raise BadInput(f"hostfile {path} does not exist{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"hostfile {path} cannot be read: {error}") from None
    return parse_hosts(text, str(path))


def parse_hosts(text: str, source: str) -> list[Host]:
    """The hosts in a hostfile's text. A host on several lines has the sum of their slots, as Open MPI adds them."""
    hosts = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        line = line.partition("#")[0].strip()
        for part in line.split(","):
            if part.strip():
                hosts.append(_parse_line(part.strip(), f"{source} line {number}"))
    if not hosts:
        raise BadInput(f"hostfile {source} names no host; a line may be {FORMS}")
    return merge_hosts(hosts)


def merge_hosts(hosts: Iterable[Host]) -> list[Host]:
    """Each host once, by the name that it was given first, with all of its slots.

    Names are the same in capitals and small letters. A bare name is also that of the one host of this name in a domain.
    """
    slots: dict[str, int] = {}
    for host in hosts:
        known = next((name for name in slots if same_host(name, host.name)), host.name)
        slots[known] = slots.get(known, 0) + host.slots
    return [Host(name, count) for name, count in slots.items()]


def same_host(one: str, other: str) -> bool:
    """Whether two names are one host's, by the names alone: `NODE1`, `node1` and `node1.cluster`."""
    one, other = one.lower(), other.lower()
    if one == other:
        return True
    if ADDRESS.fullmatch(one) or ADDRESS.fullmatch(other):
        return False
    return one.startswith(f"{other}.") or other.startswith(f"{one}.")


def _parse_line(line: str, where: str) -> Host:
    word, *options = re.sub(r"\s*=\s*", "=", line).split()
    user, at, word = word.rpartition("@")
    name, colon, count = word.partition(":")
    if at and user != _own_user():
        raise BadInput(
            f"{where}: {user}@{name}: launchers take no user's name with a host; write {name} here, and "
            f"`Host {name}` with `User {user}` below it into ~/.ssh/config"
        )
    if word.startswith("[") or ":" in count:
        raise BadInput(f"{where}: {word} is an IPv6 address, which mpirun and horovodrun do not take: give a host name")
    if not NAME.fullmatch(name):
        raise BadInput(f"{where}: {word!r} is not a host name (letters, digits, dots, hyphens); a line may be {FORMS}")
    slots = _count(count, "slots", where) if colon else None
    limit = None
    if options and options[0].isascii() and options[0].isdigit():  # Grid Engine: slots, a queue, a range of processors
        if slots is not None:
            raise BadInput(f"{where}: the slots of {name} are given twice")
        slots, *queue = _count(options[0], "slots", where), *options[1:]
        options = [] if len(queue) <= 2 and not any("=" in part for part in queue) else queue
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


def _own_user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return None


def _count(text: str, what: str, where: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise BadInput(f"{where}: {what} must be a whole number of at least 1, got {text!r}")
    return int(text)


def slurm_hosts(env: Mapping[str, str]) -> list[Host] | None:
    """The hosts of the Slurm allocation, or of the step of it, that `env` describes; None outside of one, and in a step
    or allocation of one task, which is a place like any machine: its cores are the slots.

    A slot is a task (SLURM_TASKS_PER_NODE, what `--ntasks-per-node` asks for), else SLURM_CPUS_PER_TASK cores. The
    variables of a step belong together: `srun` writes over some of the allocation's.
    """
    nodelist = env.get("SLURM_JOB_NODELIST") or env.get("SLURM_NODELIST")
    if not nodelist or slurm_task_cores(env) is not None:
        return None
    if slurm_step(env) and env.get("SLURM_STEP_NODELIST") and env.get("SLURM_STEP_TASKS_PER_NODE"):
        nodelist = env["SLURM_STEP_NODELIST"]
        env = {"SLURM_TASKS_PER_NODE": env["SLURM_STEP_TASKS_PER_NODE"]}
    names = expand_nodes(nodelist)
    counts = _tasks(env, len(names)) or _shares_of_cores(env, len(names))
    if len(counts) != len(names):
        raise BadInput(f"the Slurm allocation names {len(names)} nodes ({nodelist}) and slots of {len(counts)}")
    return [Host(name, count) for name, count in zip(names, counts)]


def _tasks(env: Mapping[str, str], nodes: int) -> list[int]:
    """The tasks on each node; none where the variables do not say it of all."""
    if env.get("SLURM_TASKS_PER_NODE"):
        counts = expand_counts(env["SLURM_TASKS_PER_NODE"], "SLURM_TASKS_PER_NODE")
        if len(counts) == nodes:
            return counts
    on_each = env.get("SLURM_NTASKS_PER_NODE")
    return [_count(on_each, "SLURM_NTASKS_PER_NODE", "the Slurm allocation")] * nodes if on_each else []


def _shares_of_cores(env: Mapping[str, str], nodes: int) -> list[int]:
    per_task = _count(env.get("SLURM_CPUS_PER_TASK") or "1", "SLURM_CPUS_PER_TASK", "the Slurm allocation")
    if env.get("SLURM_JOB_CPUS_PER_NODE"):
        cpus = expand_counts(env["SLURM_JOB_CPUS_PER_NODE"], "SLURM_JOB_CPUS_PER_NODE")
    else:  # set on each node for itself: all that is known of the others
        cpus = expand_counts(env.get("SLURM_CPUS_ON_NODE") or "1", "SLURM_CPUS_ON_NODE") * nodes
    return [max(1, count // per_task) for count in cpus]


def local_hosts(slots: int | None = None) -> list[Host]:
    """This machine alone: `slots`, or a slot for each core that this process may use at once."""
    return [Host("localhost", slots or usable_cores())]


def available_hosts(hostfile: str | Path | None, env: Mapping[str, str]) -> list[Host]:
    """Where ranks may run: the hostfile's hosts, else those of the Slurm allocation around us, else this machine."""
    if hostfile is not None:
        return read_hosts(hostfile)
    return slurm_hosts(env) or local_hosts()


def claim_slots(hosts: Sequence[Host], ranks: int, source: str = "the hosts") -> tuple[Host, ...]:
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
