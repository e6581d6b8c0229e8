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
from harness.run.checks import check
from harness.schema import RunConfig

LAUNCH_SECONDS = 600.0
"""Beside the time that is measured: imports, compilation, the warm-up."""
MEASURED = "iterations as `harness train` makes them, metrics included, without evaluations and checkpoints"


@dataclass(frozen=True)
class PhaseShare:
    """Of a run's time, what one phase of its loop takes; mean over the ranks."""

    phase: str
    share: Figure
    """In [0, 1]; those of all phases of a repeat add up to 1."""
    milliseconds: Figure
    """In an iteration."""


@dataclass(frozen=True)
class FloorFigures:
    """Milliseconds of an iteration's parts, at the least; None for what could not be measured, which counts 0."""

    products: Figure | None
    """PRODUCTS, for every gradient step."""
    environment: Figure | None
    """BARE_STEP, for every step of the rollout."""
    library_environment: Figure | None
    """The same on the library's vector class, whether or not the run's is faster."""
    total: Figure
    """Products and environment."""
    ratio: Figure
    """An iteration of the run over the floor of the same repeat."""
    environment_ratio: Figure | None
    """The run's time in environment stepping over that of the library's bare loop."""


@dataclass(frozen=True)
class Throughput:
    """What one number of ranks did, all ranks together."""

    ranks: int
    line: str
    """The run's own first line."""
    notices: list[str]
    """What the run says below it."""
    iterations: int
    """In a repeat."""
    env_steps_per_second: Figure
    """Where there is no environment, samples."""
    gradient_steps_per_second: Figure
    iteration_milliseconds: Figure
    phases: list[PhaseShare]
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
            PhaseShare(
                name,
                Figure.of([seconds / total for seconds, total in zip(spent[name], totals)]),
                per_iteration(spent[name], iterations),
            )
            for name in sorted(names, key=lambda name: -sum(spent[name]))
        ]
        return cls(
            ranks=found["ranks"],
            line=found["line"],
            notices=found["notices"],
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
    if any("floor" not in repeat for repeat in repeats):
        return None
    products, bare, library, totals, stepping = [], [], [], [], []
    for repeat in repeats:
        floor, steps = repeat["floor"], repeat["env_steps"] / (environments or 1)
        if floor["minibatch"] is not None:
            products.append(repeat["gradient_steps"] * floor["minibatch"])
        if floor["step"] is not None:
            bare.append(steps * floor["step"])
            library.append(steps * floor["library_step"])
            if "environment" in repeat["phases"]:
                stepping.append(repeat["phases"]["environment"])
        totals.append(sum(values[-1] for values in (products, bare) if values))
    if not (products or bare):
        return None
    return FloorFigures(
        products=per_iteration(products, iterations) if products else None,
        environment=per_iteration(bare, iterations) if bare else None,
        library_environment=per_iteration(library, iterations) if library else None,
        total=per_iteration(totals, iterations),
        ratio=Figure.of([repeat["seconds"] / total for repeat, total in zip(repeats, totals)]),
        environment_ratio=Figure.of([ours / theirs for ours, theirs in zip(stepping, library)]) if stepping else None,
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
    for line in (found.line, *found.notices):
        screen.say(line)
    table = Table()
    table.add_column("all ranks together")
    table.add_column("share", justify="right")
    table.add_column("median", justify="right")
    table.add_column("10–90 %", justify="right")
    steps = "environment steps a second" if "env" in found.config else "samples a second"
    for what, figure in (
        (steps, found.env_steps_per_second),
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
        for what, part in (
            ("  matrix products", floor.products),
            ("  bare vector steps", floor.environment),
            ("an iteration over its floor", floor.ratio),
            ("bare steps of the library's vector, ms", floor.library_environment),
            ("environment stepping over those", floor.environment_ratio),
        ):
            if part is not None:
                table.add_row(what, "", *texts(part))
    screen.show(table)
    count = found.env_steps_per_second.count
    screen.say(f"{count} repeats of {found.iterations} iterations: {MEASURED}; 10–90 %: {SPREAD}")
    if floor is not None:
        screen.say(f"floor: {PRODUCTS}" + (f"; {BARE_STEP}" if floor.environment is not None else ""))
        if floor.products is None:
            screen.say("the floor has no products: the network has no such layers, or is not called with a batch alone")
    screen.say(certificate.line())


def texts(figure: Figure) -> tuple[str, str]:
    return figure.text(",.2f"), figure.spread(",.2f")


def table_of(found: Sequence[Throughput]) -> dict[str, Any]:
    """What the JSON file holds."""
    definitions = {"spread": SPREAD, "measured": MEASURED, "products": PRODUCTS, "environment": BARE_STEP}
    return {"definitions": definitions, "throughput": [asdict(each) for each in found]}
