"""What Slurm says of itself in its variables: node lists, tasks per node, steps and their cores."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import product

from harness.errors import BadInput

FIRST_SPECIAL_STEP = 0xFFFFFFF0
"""Slurm's numbers from here on stand for batch scripts, interactive shells and the like."""
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
MOST_NODES = 100_000


def expand_tasks_per_node(text: str) -> list[int]:
    """Slurm's `2(x3),1` as [2, 2, 2, 1]."""
    counts: list[int] = []
    for part in text.split(","):
        count, _, times = part.partition("(x")
        counts += [int(count)] * (int(times.rstrip(")")) if times else 1)
    return counts


def slurm_step(env: Mapping[str, str]) -> bool:
    """Whether this process is in a step of its own; an interactive allocation's shell has a number that is none."""
    number = env.get("SLURM_STEP_ID", "")
    return number.isdigit() and int(number) < FIRST_SPECIAL_STEP


def slurm_task_cores(env: Mapping[str, str]) -> int | None:
    """The cores of the one task that this process is in Slurm (`srun -c 16 --pty bash`, `sbatch -c 16`): a place like a
    workstation of so many cores. None where there are several tasks, each of which is a slot, or no Slurm."""
    if slurm_step(env):
        alone = env.get("SLURM_STEP_NUM_TASKS") == "1"
    elif "SLURMD_NODENAME" not in env:  # `salloc` on a login node, which is none of the job's
        return None
    else:
        alone = env.get("SLURM_JOB_NUM_NODES") == "1" and env.get("SLURM_TASKS_PER_NODE") == "1"
    given = env.get("SLURM_CPUS_PER_TASK") or env.get("SLURM_CPUS_ON_NODE") or ""
    return int(given) if alone and given.isdigit() and int(given) > 0 else None


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
        if int(last) < int(first) or int(last) - int(first) > MOST_NODES:
            raise BadInput(f"SLURM_JOB_NODELIST={nodelist}: [{part}] is not a range that rises")
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
