"""RESULTS.json, which keeps each row's runs, RESULTS.md, the table made of it, and a picture of each row's curves."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.config import load_table, preset_path
from harness.files import read_json, write_json, write_text
from tests.docs import quoting
from tests.learning.figures import bootstrap, interquartile_mean
from tests.learning.picture import short, svg
from tests.learning.rows import FULL_EACH, FULL_MEAN, LEAST_SEEDS, ROWS, Row
from tests.learning.runs import Record, merged

HEAD = f"""# What `make learn` showed

Each preset was trained over seeds, and the final policy of each run, deterministic, was evaluated on 100 episodes with
seeds that training never used. Made by `make learn` (some rows: `make learn ROWS=ppo-cartpole,dqn-cartpole SEEDS=5`).

- **published**: mean ± standard deviation over evaluation episodes, from rl-baselines3-zoo's `benchmark.md`, and the
  environment steps that it took. **again**: what Stable-Baselines3 2.9 reached with the zoo's settings when it was run
  again, a run each.
- **mean** is over seeds; **interquartile mean** too, with the 95 % interval of 10,000 bootstrap resamples of the seeds.
- **at least**: what the mean has to be: the published mean less its standard deviation; where Stable-Baselines3 itself,
  run again, stayed below that, what it reached; where 500 was published, {FULL_MEAN:g} with every seed at least
  {FULL_EACH:g}. A row of fewer than {LEAST_SEEDS} seeds is not judged.
- **minutes** are those of one run, evaluations included, by the clock and of CPU time with start and compilation
  (medians over the seeds). Several runs shared the machine, so the clock tells little where the two differ.

"""
COMMAND = "make learn"
FACE = ("a2c-acrobot", "dqn-mountaincar", "td3-pendulum", "sac-mountaincarcontinuous", "ppo-lunarlander")
FACE += ("ppo-halfcheetah",)
"""The presets of the README's table: every algorithm, and the costlier environments."""


@dataclass(frozen=True)
class Standing:
    """A row's runs, and what they amount to."""

    row: Row
    records: Sequence[Record]

    @property
    def values(self) -> list[float]:
        """Without the seeds that diverged."""
        return [record.value for record in self.records if record.value is not None]

    @property
    def outdated(self) -> bool:
        """The preset was changed after the runs."""
        return not self.row.exists or any(record.settings != self.row.settings() for record in self.records)

    @property
    def holds(self) -> bool | None:
        """None where it is not judged."""
        row, values = self.row, self.values
        if len(self.records) < LEAST_SEEDS or not row.judged or self.outdated:
            return None
        each = row.floor_of_each
        within = all(record.env_steps <= row.steps for record in self.records)
        whole = len(values) == len(self.records) and within and min(values) >= (each if each is not None else -np.inf)
        return whole and statistics.fmean(values) >= row.floor

    def verdict(self) -> str:
        if self.outdated:
            return "the preset has changed since"
        if not self.row.judged:
            return ""
        if self.holds is None:
            return f"not judged: {len(self.records)} of {LEAST_SEEDS} seeds"
        return "yes" if self.holds else "**no**"


def load(folder: Path) -> dict[str, list[Record]]:
    """The runs of every row that was run, by preset."""
    kept = read_json(folder / "RESULTS.json") or {}
    return {key: [Record.of(record) for record in records] for key, records in kept.items()}


def save(folder: Path, row: Row, made: Sequence[Record]) -> None:
    """Writes a row anew: what stands of it together with what was made here, if anything was.

    RESULTS.json keeps no curves. The picture is drawn of the runs that were made here where these are all; otherwise
    the one that stands has more to show.
    """
    if not made:
        return
    every = load(folder)
    every[row.preset] = merged(row, every.get(row.preset, []), made)
    write(folder, every)
    curves = [record.curve for record in made if record.curve]
    if curves and len(made) == len(every[row.preset]):
        title = f"{row.preset}: training episodes, {len(curves)} seeds and their mean; dashed: published"
        write_text(folder / "curves" / f"{row.preset}.svg", svg(title, curves, row.reference, row.steps))


def write(folder: Path, every: Mapping[str, Sequence[Record]]) -> None:
    kept = {key: [without_curve(record) for record in every[key]] for key in sorted(every)}
    write_json(folder / "RESULTS.json", kept)
    standings = [Standing(row, every.get(key, [])) for key, row in ROWS.items()]
    write_text(folder / "RESULTS.md", HEAD + table(standings) + "".join(section(each, folder) for each in standings))


def without_curve(record: Record) -> dict[str, Any]:
    return {key: value for key, value in asdict(record).items() if key != "curve"}


def quote_presets(every: Mapping[str, Sequence[Record]]) -> list[str]:
    """Puts what was reached into the first line of each preset whose row was judged; the presets that it changed."""
    changed = []
    for key, records in every.items():
        standing = Standing(ROWS[key], records)
        if standing.holds is None or len(standing.values) < len(records):
            continue
        path = preset_path(key)
        first, _, rest = path.read_text().partition("\n")
        what = first.partition(": ")[0].rstrip(".")
        minutes = statistics.median(record.cpu_seconds for record in records) / 60
        steps = f"{load_table(key)['run']['steps']:,} steps"
        line = f"{what}: {statistics.fmean(standing.values):.4g} within {steps}, {max(minutes, 0.1):.1f} minutes."
        if line != first:
            write_text(path, f"{line}\n{rest}")
            changed.append(key)
    return changed


def quote(root: Path, every: Mapping[str, Sequence[Record]]) -> None:
    """Puts the rows that were run into docs/learning.md, and those of FACE into the README, below `root`."""
    standings = [Standing(row, every[key]) for key, row in ROWS.items() if key in every]
    quoting.quote(root / "docs" / "learning.md", COMMAND, summary(standings))
    quoting.quote(root / "README.md", COMMAND, summary([each for each in standings if each.row.preset in FACE]))


def summary(standings: Sequence[Standing]) -> str:
    """What the docs quote of rows: references, the mean over seeds, and what it has to be."""
    columns = ["preset", "published", "Stable-Baselines3 again", "mean", "at least", "holds", "steps"]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for each in standings:
        _, mean, _, least, holds, steps, _ = measured(each)
        cells = [f"`{each.row.preset}`", *references(each.row), mean, least, holds, steps]
        lines.append(f"| {' | '.join(cells)} |")
    records = [record for each in standings for record in each.records]
    seeds = " or ".join(map(str, sorted({len(each.records) for each in standings})))
    where = f"{days(records)}, {', '.join(sorted({record.cpu for record in records}))}"
    return "\n".join([*lines, "", f"Measured by `make learn`: means over {seeds} seeds, 100 episodes each; {where}."])


def number(value: float) -> str:
    """Four digits, or all before the point."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def table(standings: Sequence[Standing]) -> str:
    columns = ["preset", "published", "again", "seeds", "mean", "interquartile mean", "at least", "holds", "steps"]
    lines = [f"| {' | '.join([*columns, 'minutes: clock, CPU'])} |", "|" + "---|" * (len(columns) + 1)]
    for each in standings:
        row = each.row
        kept = f"[{row.preset}](#{row.preset})" if each.records else row.preset
        cells = [kept, *references(row), *measured(each)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", ""])


def references(row: Row) -> list[str]:
    """What was published, and what Stable-Baselines3 reached when it was run again."""
    published = f"{number(row.reference)} ± {number(row.spread)} ({short(row.steps)})"
    published += f", {row.published}" if row.published else ""
    again = ", ".join(map(number, row.again))
    return [published, again + (f" ± {number(row.again_spread)}" if row.again_spread is not None else "")]


def measured(each: Standing) -> list[str]:
    row, values = each.row, each.values
    if not values:
        state = "all diverged" if each.records else "not run yet" if row.exists else "not run yet: no preset"
        return [str(len(each.records)), "", "", number(row.floor), state, "", ""]
    low, high = bootstrap(values, interquartile_mean)
    middle = f"{number(float(interquartile_mean(np.array(values))))} ({number(low)} … {number(high)})"
    steps = f"{max(record.env_steps for record in each.records):,}"
    clock, cpu = (
        statistics.median(getattr(record, name) / 60 for record in each.records)
        for name in ("wall_seconds", "cpu_seconds")
    )
    mean = number(statistics.fmean(values))
    judged = [number(row.floor) if row.judged else "", each.verdict()]
    return [str(len(each.records)), mean, middle, *judged, steps, f"{clock:.1f}, {cpu:.1f}"]


def section(each: Standing, folder: Path) -> str:
    """A row in full: its curves, each seed, and where the figures come from."""
    row, records = each.row, each.records
    if not records:
        return ""
    lines = [f"## {row.preset}", ""]
    if (folder / "curves" / f"{row.preset}.svg").exists():
        lines += [f"![learning curves of {row.preset}](curves/{row.preset}.svg)", ""]
    seeds = "; ".join(f"{record.seed}: {outcome(record)}" for record in records)
    lines += [f"Each seed, mean ± deviation over {records[0].episodes} episodes: {seeds}.", ""]
    lines += [row.note, ""] if row.note else []
    lines.append(f"`python -m harness {' '.join(row.command('SEED'))}`, {origin(records)}.")
    return "\n".join([*lines, "", ""])


def outcome(record: Record) -> str:
    if record.value is None or record.std is None:
        return f"diverged ({record.reason})"
    shown = f"{number(record.value)} ± {number(record.std)}"
    return shown + (f" (stopped and resumed {record.interrupted} times)" if record.interrupted else "")


def origin(records: Sequence[Record]) -> str:
    """Dates, commits, machines, backends and versions of the runs, each once."""

    def each(values: list[str]) -> str:
        return ", ".join(Counter(values))

    commits = each([shorten(record.commit) for record in records])
    of = each([", ".join(f"{name} {version}" for name, version in record.versions.items()) for record in records])
    backends = each([record.backend for record in records if record.backend])
    stepped = f", environments by {backends}" if backends else ""
    return f"{days(records)}, commit {commits}, {each([record.cpu for record in records])}{stepped}; {of}"


def days(records: Sequence[Record]) -> str:
    """The first and the last day of the runs."""
    dates = sorted({record.date[:10] for record in records})
    return dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"


def shorten(commit: str | None) -> str:
    return "unknown" if commit is None else commit[:10] + "-dirty" * commit.endswith("-dirty")
