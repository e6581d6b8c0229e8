"""`harness bench throughput PRESET`: steps a second, where the time goes, and how far that is from the floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from harness.bench.certificate import SPREAD, Certificate, Figure
from harness.bench.floor import BARE_STEP, PRODUCTS
from harness.bench.launch import Places, run_on_ranks
from harness.bench.rank import run_task
from harness.bench.screen import Screen
from harness.config import RunConfig
from harness.run import check

LAUNCH_SECONDS = 600.0
"""Beside the time that is measured: imports, compilation, the warm-up."""
MEASURED = "iterations as `harness train` makes them, metrics included, without evaluations and checkpoints"


@dataclass(frozen=True)
class Share:
    """Of a run's time, what one phase of its loop takes; mean over the ranks."""

    phase: str
    share: Figure
    """In [0, 1]; those of all phases of a repeat add up to 1."""
    milliseconds: Figure
    """In an iteration."""


@dataclass(frozen=True)
class FloorFigures:
    """Milliseconds of an iteration's parts, at the least; a part that could not be measured is None and counts 0."""

    products: Figure | None
    """PRODUCTS, for every gradient step."""
    environment: Figure | None
    """BARE_STEP, for every step of the rollout."""
    total: Figure
    ratio: Figure
    """An iteration of the run over the floor of the same repeat."""
    environment_ratio: Figure | None
    """The run's time in environment stepping over that of the bare loop."""


@dataclass(frozen=True)
class Throughput:
    """What one number of ranks did, all ranks together."""

    ranks: int
    line: str
    """The run's own first line."""
    iterations: int
    """In a repeat."""
    env_steps_per_second: Figure
    gradient_steps_per_second: Figure
    iteration_milliseconds: Figure
    phases: list[Share]
    floor: FloorFigures | None
    config: dict[str, Any]
    """As the run resolved it."""

    @classmethod
    def of(cls, found: dict[str, Any]) -> Throughput:
        """From what the ranks found."""
        repeats, iterations = found["repeats"], found["iterations"]
        names = sorted({name for repeat in repeats for name in repeat["phases"]})
        totals = [sum(repeat["phases"].values()) for repeat in repeats]
        spent = {name: [repeat["phases"].get(name, 0.0) for repeat in repeats] for name in names}
        phases = [
            Share(
                name,
                Figure.of([seconds / total for seconds, total in zip(spent[name], totals)]),
                per_iteration(spent[name], iterations),
            )
            for name in sorted(names, key=lambda name: -sum(spent[name]))
        ]
        return cls(
            ranks=found["ranks"],
            line=found["line"],
            iterations=iterations,
            env_steps_per_second=Figure.of([repeat["env_steps"] / repeat["seconds"] for repeat in repeats]),
            gradient_steps_per_second=Figure.of([repeat["gradient_steps"] / repeat["seconds"] for repeat in repeats]),
            iteration_milliseconds=per_iteration([repeat["seconds"] for repeat in repeats], iterations),
            phases=phases,
            floor=floor_of(repeats, iterations, found["environments"]),
            config=found["config"],
        )


def floor_of(repeats: Sequence[dict[str, Any]], iterations: int, environments: int | None) -> FloorFigures | None:
    """The floor of each repeat for the steps that it made; None where no part of it is known."""
    parts: dict[str, list[float]] = {"products": [], "environment": []}
    for repeat in repeats:
        if repeat["floor"]["minibatch"] is not None:
            parts["products"].append(repeat["gradient_steps"] * repeat["floor"]["minibatch"])
        if repeat["floor"]["step"] is not None and environments:
            parts["environment"].append(repeat["env_steps"] / environments * repeat["floor"]["step"])
    known = [values for values in parts.values() if values]
    if not known:
        return None
    totals = [sum(values) for values in zip(*known)]
    figures = {name: per_iteration(values, iterations) if values else None for name, values in parts.items()}
    stepping = [repeat["phases"].get("environment") for repeat in repeats]
    ratios = [seconds / bare for seconds, bare in zip(stepping, parts["environment"]) if seconds is not None]
    return FloorFigures(
        products=figures["products"],
        environment=figures["environment"],
        total=per_iteration(totals, iterations),
        ratio=Figure.of([repeat["seconds"] / total for repeat, total in zip(repeats, totals)]),
        environment_ratio=Figure.of(ratios) if ratios else None,
    )


def per_iteration(seconds: Sequence[float], iterations: int) -> Figure:
    """Milliseconds of an iteration."""
    return Figure.of([1e3 * each / iterations for each in seconds])


def measure_here(config: RunConfig, repeats: int, seconds: float) -> Throughput | None:
    """On the ranks that this process was started with, or alone; None on other ranks than 0."""
    found = run_task("throughput", {"config": config.to_table(), "repeats": repeats, "seconds": seconds})
    return Throughput.of(found) if found is not None else None


def measure_on_ranks(
    places: Places, ranks: int, config: RunConfig, repeats: int, seconds: float, with_floor: bool = True
) -> dict[str, Any]:
    """What ranks that this process starts found; see harness/bench/running.py."""
    check(config, ranks)
    task = {"config": config.to_table(), "repeats": repeats, "seconds": seconds, "with_floor": with_floor}
    limit = LAUNCH_SECONDS + 4 * (repeats + 1) * seconds
    return run_on_ranks(places, ranks, "throughput", task, {}, limit)


# -- what people see ---------------------------------------------------------------------------------------------------


def show(found: Throughput, certificate: Certificate, screen: Screen) -> None:
    table = Table(title=found.line, title_justify="left")
    table.add_column("")
    table.add_column("share", justify="right")
    table.add_column("median", justify="right")
    table.add_column("10–90 %", justify="right")
    for what, figure in (
        ("environment steps a second", found.env_steps_per_second),
        ("gradient steps a second", found.gradient_steps_per_second),
    ):
        table.add_row(what, "", figure.text(), figure.spread())
    table.add_row("an iteration, ms", "100 %", *texts(found.iteration_milliseconds))
    for phase in found.phases:
        table.add_row(f"  {phase.phase}", f"{100 * phase.share.median:.1f} %", *texts(phase.milliseconds))
    floor = found.floor
    if floor is not None:
        table.add_section()
        table.add_row("the floor of an iteration, ms", "", *texts(floor.total))
        for what, part in (("matrix products", floor.products), ("bare vector steps", floor.environment)):
            if part is not None:
                table.add_row(f"  {what}", "", *texts(part))
        table.add_row("an iteration over its floor", "", *texts(floor.ratio))
        if floor.environment_ratio is not None:
            table.add_row("environment stepping over bare steps", "", *texts(floor.environment_ratio))
    screen.show(table)
    count = found.env_steps_per_second.count
    screen.say(f"{count} repeats of {found.iterations} iterations: {MEASURED}; 10–90 %: {SPREAD}")
    if floor is not None:
        screen.say(f"floor: {PRODUCTS}" + (f"; {BARE_STEP}" if floor.environment is not None else ""))
        if floor.products is None:
            screen.say("the floor has no products: the network has no layers of a kind that is counted")
    screen.say(certificate.line())


def texts(figure: Figure) -> tuple[str, str]:
    return figure.text(",.2f"), figure.spread(",.2f")


def table_of(found: Sequence[Throughput]) -> dict[str, Any]:
    """What the JSON file holds."""
    definitions = {"spread": SPREAD, "measured": MEASURED, "products": PRODUCTS, "environment": BARE_STEP}
    return {"definitions": definitions, "throughput": [asdict(each) for each in found]}
