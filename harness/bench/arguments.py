"""The command line of `harness bench`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from harness.errors import BadInput

UNITS = {"": 1, "B": 1, "K": 1 << 10, "KB": 1 << 10, "M": 1 << 20, "MB": 1 << 20}
DEFAULT_REPEATS = {"allreduce": 3, "throughput": 5, "scaling": 5}


def add_arguments(commands: Any) -> None:
    """Adds `bench` and its three benches to the commands of `harness`."""
    bench = commands.add_parser("bench", help="measure this machine: all-reduces, throughput, scaling")
    benches = bench.add_subparsers(dest="bench", required=True, metavar="allreduce|throughput|scaling")
    allreduce = benches.add_parser("allreduce", help="what a sum over the ranks costs, by each way there is")
    allreduce.add_argument("--max-size", default="256MB", metavar="SIZE", help="such as 64KB or 16MB; from 4KB on")
    throughput = benches.add_parser("throughput", help="steps a second, where the time goes, and the floor beneath")
    scaling = benches.add_parser("scaling", help="what more ranks bring, by three definitions")
    scaling.add_argument("--until", type=float, metavar="RETURN", help="also train until an evaluation's mean return")
    for parser in (throughput, scaling):
        parser.add_argument("config", metavar="PRESET|FILE.toml")
        parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    for name, parser in (("allreduce", allreduce), ("throughput", throughput), ("scaling", scaling)):
        least = "this process is a rank" if name == "throughput" else "2" if name == "allreduce" else "1,2"
        parser.add_argument("--ranks", metavar="N,…", help=f"numbers of ranks to start; without it {least}")
        parser.add_argument("--hostfile", metavar="F", help="hosts and their slots")
        parser.add_argument("--launcher", metavar="NAME", help="horovodrun, horovodrun-gloo or mpirun")
        parser.add_argument("--repeats", type=int, default=DEFAULT_REPEATS[name], metavar="K")
        parser.add_argument("--seconds", type=float, default=0.5 if name == "allreduce" else 2.0, metavar="S")
        parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures, and plots beside them")


def check(arguments: argparse.Namespace) -> None:
    """BadInput for what no bench can use; `--json` before anything is measured rather than after."""
    if arguments.repeats < 1:
        raise BadInput(f"--repeats must be >= 1, got {arguments.repeats}")
    if not 0 < arguments.seconds < float("inf"):
        raise BadInput(f"--seconds must be > 0, got {arguments.seconds}")
    path = arguments.json
    if path is not None:
        folder = path.parent
        while not folder.exists():
            folder = folder.parent
        if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            raise BadInput(f"--json must be a file in a folder that can be written, got {path}")


def rank_counts(text: str, least: int) -> list[int]:
    """`1,2` as [1, 2], each once; BadInput for what are no numbers of ranks, `least` or more of them."""
    counts = []
    for word in text.split(","):
        if not word.strip().isascii() or not word.strip().isdigit() or int(word) < least:
            raise BadInput(f"--ranks must be numbers >= {least}, such as 2 or 2,4, got {text!r}")
        counts.append(int(word))
    return sorted(set(counts))


def size_in_bytes(text: str, least: int) -> int:
    """`64KB` as 65536; BadInput for what is no size, or less than `least`."""
    digits = text.strip().rstrip("BbKkMm")
    unit = text.strip()[len(digits) :].upper()
    if not digits.isascii() or not digits.isdigit() or unit not in UNITS or int(digits) * UNITS[unit] < least:
        raise BadInput(f"--max-size must be a size of at least {least >> 10}KB, such as 64KB or 16MB, got {text!r}")
    return int(digits) * UNITS[unit]
