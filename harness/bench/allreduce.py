"""`harness bench allreduce`: what a sum over the ranks costs, by each way there is, from 4 KB to 256 MB.

Each way is a launch of its own: Horovod's thread polls MPI beside whatever else uses it, so that two of them in one
process group spoil each other's figures. Launches are repeated, all ways in turn: a busy minute falls on all of them.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from rich.table import Table

from harness.bench.certificate import SPREAD, Certificate, Figure
from harness.bench.launch import Failed, Places, run_on_ranks
from harness.bench.screen import Screen
from harness.cluster.slots import visible_gpus
from harness.errors import BadInput
from harness.files import write_text

SMALLEST, LARGEST = 4 << 10, 256 << 20
LAUNCH_SECONDS = 300.0
BUS_BANDWIDTH = "bytes / median * 2 (N - 1) / N for N ranks, in 10^9 bytes a second, as nccl-tests defines it"
RING = {"OMPI_MCA_coll_tuned_use_dynamic_rules": "1", "OMPI_MCA_coll_tuned_allreduce_algorithm": "4"}
NO_GPUS = {"CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True)
class Way:
    """A way to reduce."""

    name: str
    title: str
    env: dict[str, str] = field(default_factory=dict)
    """What its ranks' environment has beside that of every launch."""
    launcher: str | None = None
    """The only one that it works under; None: an MPI one."""


WAYS = (
    Way("mpi", "MPI, as runs reduce", NO_GPUS),
    Way("mpi-bare", "MPI: mpi4py's Allreduce in place", NO_GPUS),
    Way("mpi-ring", "MPI: the same, forced to the ring", {**NO_GPUS, **RING}),
    Way("horovod", "Horovod on MPI, as runs set it up"),
    # of what a launch changes for Horovod the idle yield is left: without it ranks that wait starve its threads
    Way("horovod-defaults", "Horovod on MPI, its own defaults", {"HOROVOD_CYCLE_TIME": "1"}),
    Way("horovod-gloo", "Horovod on Gloo, as runs set it up", launcher="horovodrun-gloo"),
    Way("torch-gloo", "torch.distributed, Gloo", NO_GPUS),
    Way("nccl", "torch.distributed, NCCL"),
)


@dataclass(frozen=True)
class Row:
    """One way at one size."""

    way: str
    ranks: int
    bytes: int
    algorithm: str
    """As far as it is known; and what else the time depends on."""
    device: str
    library: str | None
    """The MPI that carries it."""
    microseconds: Figure
    """Of one call; over the calls of all launches, each the mean over the ranks."""
    bus_bandwidth: float
    """10^9 bytes a second; see BUS_BANDWIDTH."""


@dataclass(frozen=True)
class LeftOut:
    way: str
    ranks: int
    reason: str


def bus_bandwidth(size: int, seconds: float, ranks: int) -> float:
    """10^9 bytes a second, by BUS_BANDWIDTH."""
    return size / seconds * 2 * (ranks - 1) / ranks / 1e9


def sizes_up_to(most: int) -> list[int]:
    """4 KB, 16 KB, … bytes, up to `most` and 256 MB."""
    return [size for size in (SMALLEST * 4**power for power in range(9)) if size <= most]


def measure(
    places: Places, counts: Sequence[int], sizes: Sequence[int], repeats: int, seconds: float, screen: Screen
) -> tuple[list[Row], list[LeftOut]]:
    """Every way on every number of ranks, `repeats` launches each, `seconds` of each for a size.

    A way that does not work here is left out with its reason, the others are measured.
    """
    rows, left_out = [], []
    for ranks in counts:
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        reasons = {way.name: reason for way in WAYS if (reason := cannot(way, places, ranks)) is not None}
        for repeat in range(1, repeats + 1):
            for way in [way for way in WAYS if way.name not in reasons]:
                screen.doing(f"{ranks} ranks, {way.title}: {repeat} of {repeats}")
                at = replace(places, launcher=way.launcher or places.launcher)
                task = {
                    "path": way.name,
                    "hosts": [host.name for host in places.hosts],
                    "sizes": list(sizes),
                    "seconds": seconds,
                }
                try:
                    found[way.name].append(run_on_ranks(at, ranks, "reduce", task, way.env, LAUNCH_SECONDS))
                except (BadInput, Failed) as error:
                    reasons[way.name] = str(error)
        left_out += [LeftOut(name, ranks, reason) for name, reason in reasons.items()]
        rows += [row(way, ranks, size, found[way.name]) for size in sizes for way in WAYS if way.name not in reasons]
    return rows, left_out


def cannot(way: Way, places: Places, ranks: int) -> str | None:
    """Why there is no need to try; None where there may be."""
    here = all(host.name == "localhost" for host in places.hosts)
    if way.name == "nccl" and here and len(visible_gpus(os.environ)) < ranks:
        return f"needs a GPU for each rank: this host has {len(visible_gpus(os.environ))} and {ranks} ranks"
    return None


def row(way: Way, ranks: int, size: int, launches: Sequence[dict[str, Any]]) -> Row:
    times = [seconds for launch in launches for seconds in launch["times"][str(size)]]
    microseconds = Figure.of([1e6 * seconds for seconds in times])
    last = launches[-1]
    cycle = [f"cycle {last['cycle_milliseconds']} ms"] if last["cycle_milliseconds"] else []
    known = [last["algorithms"][str(size)]] if last["algorithms"][str(size)] else []
    return Row(
        way=way.name,
        ranks=ranks,
        bytes=size,
        algorithm=", ".join([*known, *cycle]),
        device=last["device"],
        library=last["mpi"],
        microseconds=microseconds,
        bus_bandwidth=bus_bandwidth(size, microseconds.median / 1e6, ranks),
    )


# -- what people see ---------------------------------------------------------------------------------------------------


def shown_size(size: int) -> str:
    return f"{size >> 20} MB" if size >= 1 << 20 else f"{size >> 10} KB"


def title_of(name: str) -> str:
    return next(way.title for way in WAYS if way.name == name)


def show(rows: Sequence[Row], left_out: Sequence[LeftOut], certificate: Certificate, screen: Screen) -> None:
    for ranks in sorted({found.ranks for found in rows}):
        table = Table(title=f"All-reduce of float32 by {ranks} ranks", title_justify="left")
        table.add_column("size", justify="right")
        table.add_column("by")
        table.add_column("algorithm")
        for heading in ("median µs", "10–90 % µs", "bus GB/s"):
            table.add_column(heading, justify="right")
        before = None
        for found in [found for found in rows if found.ranks == ranks]:
            if before not in (None, found.bytes):
                table.add_section()
            table.add_row(
                shown_size(found.bytes) if before != found.bytes else "",
                title_of(found.way),
                found.algorithm,
                found.microseconds.text(",.1f"),
                found.microseconds.spread(",.1f"),
                f"{found.bus_bandwidth:.3g}",
            )
            before = found.bytes
        screen.show(table)
    for left in left_out:
        screen.say(f"left out, {left.ranks} ranks: {title_of(left.way)}: {left.reason}")
    screen.say(f"10–90 %: {SPREAD} of the calls; bus GB/s: {BUS_BANDWIDTH}")
    screen.say(certificate.line())


def table_of(rows: Sequence[Row], left_out: Sequence[LeftOut]) -> dict[str, Any]:
    """What the JSON file holds."""
    return {
        "definitions": {"spread": SPREAD, "bus_bandwidth": BUS_BANDWIDTH},
        "rows": [asdict(found) for found in rows],
        "left_out": [asdict(left) for left in left_out],
    }


def plot(rows: Sequence[Row], certificate: Certificate, path: Path) -> None:
    """Time against size, both logarithmic, a line a way, as an HTML file that needs nothing beside it."""
    figure = go.Figure()
    for way, ranks in dict.fromkeys((found.way, found.ranks) for found in rows):
        line = [found for found in rows if (found.way, found.ranks) == (way, ranks)]
        figure.add_scatter(
            x=[found.bytes for found in line],
            y=[found.microseconds.median for found in line],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [found.microseconds.high - found.microseconds.median for found in line],
                "arrayminus": [found.microseconds.median - found.microseconds.low for found in line],
            },
            mode="lines+markers",
            name=f"{title_of(way)}, {ranks} ranks",
        )
    sizes = sorted({found.bytes for found in rows})
    figure.update_xaxes(type="log", title="size", tickvals=sizes, ticktext=[shown_size(size) for size in sizes])
    figure.update_yaxes(type="log", title=f"median µs of an all-reduce; bars: {SPREAD}")
    figure.update_layout(title={"text": "All-reduce", "subtitle": {"text": certificate.line()}})
    write_text(path, figure.to_html())
