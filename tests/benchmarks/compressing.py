"""What compressors take of a core: `python -m tests.benchmarks.compressing --json FILE`.

A whole sum as one rank makes it: what was left out before is added, the message is encoded, and one message is decoded;
nothing is exchanged. A copy of the vector takes its turn among them.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn

from harness.compression_settings import COMPRESSION_KINDS, CompressionSettings
from harness.distributed.arena import Arena
from harness.distributed.compression import make_compressor
from harness.distributed.transports.base import Alone
from harness.files import write_json

ALLOWED = {"int8": 60.0, "top_k": 200.0, "powersgd": 80.0}
"""Milliseconds for 25 million numbers."""
SMALL = [(64, 4), (64,), (64, 64), (64,), (10, 64), (10,)]
"""Of 20 KB."""


def contestants(shapes: list[tuple[int, ...]]) -> dict[str, Callable[[], object]]:
    """A copy, and every kind as it is by default and with its error feedback the other way; on one vector."""
    arena, group = Arena(nn.ParameterList(torch.zeros(shape) for shape in shapes)), Alone()
    gradient = torch.randn(arena.size, generator=torch.Generator().manual_seed(0))
    vector = gradient.clone()

    def summing(kind: str, error_feedback: bool) -> Callable[[], object]:
        compressor = make_compressor(CompressionSettings(kind=kind, error_feedback=error_feedback))
        assert compressor is not None
        compressor.attach(arena, group)

        def reduce() -> None:
            compressor.all_reduce_(vector, group)

        return reduce

    found: dict[str, Callable[[], object]] = {"memcpy": lambda: vector.copy_(gradient)}
    for kind in COMPRESSION_KINDS[1:]:
        usual = CompressionSettings(kind=kind).feeds_back
        found[kind] = summing(kind, usual)
        found[f"{kind}, {'without' if usual else 'with'} error feedback"] = summing(kind, not usual)
    return found


def seconds_of(call: Callable[[], object], seconds: float) -> float:
    """The median of as many calls as fit."""
    call()
    times: list[float] = []
    while not times or sum(times) < seconds:
        began = perf_counter()
        call()
        times.append(perf_counter() - began)
    return statistics.median(times)


def row(key: str, title: str, unit: str, per_second: float, shapes: list[tuple[int, ...]], args: Any) -> dict[str, Any]:
    command = "python -m tests.benchmarks.compressing"
    calls = contestants(shapes)
    values: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(args.rounds):
        for name, call in calls.items():
            values[name].append(per_second * seconds_of(call, args.seconds))
    scores = [{"name": name, "command": command, "values": found} for name, found in values.items()]
    note = "One thread; one rank's whole sum: residual, encoding and decoding, without an exchange. top_k and random_k "
    return {"key": key, "title": title, "unit": unit, "note": note + "of 1 %, powersgd of rank 4.", "scores": scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each turn")
    parser.add_argument("--seed", type=int, help="taken, and of no meaning here")
    parser.add_argument("--side", type=int, default=5000, help="rows and columns of the large matrix")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    args = parser.parse_args()
    torch.set_num_threads(1)
    shapes: list[tuple[int, ...]] = [(args.side, args.side)]
    large = row("compress-a", f"Compressing {args.side**2 / 1e6:.3g} million numbers", "ms", 1e3, shapes, args)
    small = row("compress-b", "Compressing a network of 20 KB", "us", 1e6, SMALL, args)
    large["scores"] += [
        {"name": f"allowed for {kind}", "command": "", "values": [most] * args.rounds} for kind, most in ALLOWED.items()
    ]
    large["claims"] = [{"of": kind, "against": f"allowed for {kind}", "at_most": 1.0} for kind in ALLOWED]
    write_json(args.json, {"rows": [large, small]})


if __name__ == "__main__":
    main()
