"""`harness bench scaling PRESET --ranks 1,2,…`: what more ranks bring, by definitions that are easily mixed up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from harness.bench.certificate import SPREAD, Certificate, Figure
from harness.bench.launch import Failed, Places, run_on_ranks
from harness.bench.screen import Screen, shown
from harness.bench.throughput import measure_on_ranks
from harness.config import resolve
from harness.run.checks import check
from harness.schema import RunConfig

TRAIN_SECONDS = 4 * 3600.0
BATCH_SETTINGS = ("minibatch_size", "batch_size")
WEAK = (
    "weak scaling: the batch of a rank is held, env.count and the minibatch are those of the settings times N; "
    "efficiency is steps/s by rank over those of the fewest ranks"
)
STRONG = (
    "strong scaling: the batch of all ranks is held, the settings are taken as they are, N ranks are the same "
    "experiment; speed-up is steps/s over those of the fewest ranks"
)
UNTIL = (
    "time to a return: training with the settings as they are until an evaluation's mean is at least RETURN, "
    "compilation and earlier evaluations included, start of the processes not; repeat k adds k - 1 to the seed, for "
    "all numbers of ranks alike; speed-up is the time of the fewest ranks over this one"
)


@dataclass(frozen=True)
class Rate:
    """Environment steps a second of all ranks together."""

    ranks: int
    env_count: int | None
    batch: int | None
    """Of a minibatch, over all ranks."""
    steps_per_second: Figure
    speed_up: float
    """Over the fewest ranks, by medians."""
    efficiency: float
    """The speed-up over how many times more ranks there are."""
    line: str


@dataclass(frozen=True)
class TimeTo:
    """A given return."""

    ranks: int
    seconds: Figure | None
    """None where not every run came so far."""
    env_steps: Figure | None
    reached: int
    runs: int
    speed_up: float | None


@dataclass(frozen=True)
class Scaling:
    weak: list[Rate]
    strong: list[Rate]
    until: list[TimeTo]


def widened(config: RunConfig, ranks: int) -> RunConfig:
    """The config for weak scaling: environments, minibatch and budget times `ranks`."""
    table = config.to_table()
    if "env" in table:
        table["env"]["count"] *= ranks
        table["run"]["steps"] *= ranks
    for name in BATCH_SETTINGS:
        if name in table["algorithm"]:
            table["algorithm"][name] *= ranks
    return resolve(table)


def stopping_at(config: RunConfig, value: float, seed: int) -> RunConfig:
    """The config of a run until a return; nothing is made of the policy afterwards."""
    table = config.to_table()
    table["seed"] = seed
    table.setdefault("evaluation", {}).update(stop_at=value, final_episodes=1)
    return resolve(table)


def measure(
    places: Places,
    counts: Sequence[int],
    config: RunConfig,
    until: float | None,
    repeats: int,
    seconds: float,
    screen: Screen,
) -> Scaling:
    """All numbers of ranks in turn, `repeats` times, so that a busy minute falls on all of them."""
    for ranks in counts:
        check(config, ranks)
        check(widened(config, ranks), ranks)
    weak: dict[int, list[dict[str, Any]]] = defaultdict(list)
    strong: dict[int, list[dict[str, Any]]] = defaultdict(list)
    trained: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for repeat in range(repeats):
        for ranks in counts:
            for kind, found, settings in (("weak", weak, widened(config, ranks)), ("strong", strong, config)):
                if kind == "strong" and ranks == 1:  # is weak scaling's
                    strong[1].append(weak[1][-1])
                    continue
                screen.doing(f"{shown(ranks)}, {kind} scaling: {repeat + 1} of {repeats}")
                found[ranks].append(measure_on_ranks(places, ranks, settings, 1, seconds, with_floor=False))
            if until is not None:
                screen.doing(f"{shown(ranks)}, training until {until:g}: {repeat + 1} of {repeats}")
                settings = stopping_at(config, until, config.seed + repeat)
                task = {"config": settings.to_table()}
                trained[ranks].append(run_on_ranks(places, ranks, "train", task, {}, TRAIN_SECONDS))
    times = times_to(trained, until) if until is not None else []
    return Scaling(rates(weak), rates(strong), times)


def rates(found: Mapping[int, Sequence[dict[str, Any]]]) -> list[Rate]:
    rows: list[Rate] = []
    for ranks, launches in sorted(found.items()):
        repeats = [repeat for launch in launches for repeat in launch["repeats"]]
        figure = Figure.of([repeat["env_steps"] / repeat["seconds"] for repeat in repeats])
        config = launches[-1]["config"]
        first = rows[0] if rows else None
        speed_up = figure.median / first.steps_per_second.median if first is not None else 1.0
        rows.append(
            Rate(
                ranks=ranks,
                env_count=config.get("env", {}).get("count"),
                batch=next((config["algorithm"][name] for name in BATCH_SETTINGS if name in config["algorithm"]), None),
                steps_per_second=figure,
                speed_up=speed_up,
                efficiency=speed_up * (first.ranks if first is not None else ranks) / ranks,
                line=launches[-1]["line"],
            )
        )
    return rows


def times_to(found: Mapping[int, Sequence[dict[str, Any]]], until: float) -> list[TimeTo]:
    rows: list[TimeTo] = []
    for ranks, results in sorted(found.items()):
        for result in results:
            if result["status"] != "done":
                raise Failed(f"training with {ranks} ranks: {result['status']}: {result['reason']}")
        reached = [result for result in results if (result["best_return_mean"] or float("-inf")) >= until]
        whole = len(reached) == len(results)
        seconds = Figure.of([result["wall_seconds"] for result in reached]) if whole else None
        first = rows[0].seconds if rows else seconds
        rows.append(
            TimeTo(
                ranks=ranks,
                seconds=seconds,
                env_steps=Figure.of([float(result["env_steps"]) for result in reached]) if whole else None,
                reached=len(reached),
                runs=len(results),
                speed_up=first.median / seconds.median if first is not None and seconds is not None else None,
            )
        )
    return rows


# -- what people see ---------------------------------------------------------------------------------------------------


def show(found: Scaling, name: str, until: float | None, certificate: Certificate, screen: Screen) -> None:
    for rows, definition in ((found.weak, WEAK), (found.strong, STRONG)):
        table = headed(f"{name}: {definition.partition(':')[0]}", "environments", "minibatch", "steps/s", "10–90 %")
        for rate in rows:
            table.add_row(
                str(rate.ranks),
                str(rate.env_count or ""),
                str(rate.batch or ""),
                rate.steps_per_second.text(),
                rate.steps_per_second.spread(),
                f"{rate.speed_up:.2f}",
                f"{100 * rate.efficiency:.0f} %",
            )
        screen.show(table)
        screen.say(definition)
    if until is not None:
        table = headed(f"{name}: time to a return of {until:g}", "reached", "steps", "seconds", "10–90 %")
        for time in found.until:
            reached = f"{time.reached} of {time.runs}"
            if time.seconds is None or time.env_steps is None:
                table.add_row(str(time.ranks), reached, "", "", "", "", "")
                continue
            speed_up = f"{time.speed_up:.2f}" if time.speed_up is not None else ""
            seconds = time.seconds.text(",.1f"), time.seconds.spread(",.1f")
            table.add_row(str(time.ranks), reached, time.env_steps.text(), *seconds, speed_up, "")
        screen.show(table)
        screen.say(UNTIL.replace("RETURN", f"{until:g}"))
    screen.say(f"medians; 10–90 %: {SPREAD} of the repeats")
    screen.say(certificate.line())


def headed(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in ("ranks", *columns, "speed-up", "efficiency"):
        table.add_column(heading, justify="right")
    return table


def table_of(found: Scaling) -> dict[str, Any]:
    """What the JSON file holds."""
    return {"definitions": {"spread": SPREAD, "weak": WEAK, "strong": STRONG, "until": UNTIL}, **asdict(found)}
