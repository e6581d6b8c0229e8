"""RESULTS.json, which keeps each row's last run, and RESULTS.md, the table made of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from harness.files import read_json, write_json, write_text
from tests.benchmarks.figures import Result, Verdict, number
from tests.docs import quoting

HEAD = """# What `make bench` measured

Contestants take turns (A B C A B C …), each in processes of its own, with one torch thread a rank, warmed up before
the clock starts. A figure is the median of its rounds, with the lowest and the highest; a ratio is that of the medians,
with those of single rounds. Made by `make bench` (some rows: `make bench ROWS=2,3`); each row tells its own date and
machine.
"""
COMMAND = "make bench"
FACE = (
    ("2a", "ours", "Stable-Baselines3"),
    ("3", "ours, 2 ranks", "plain PPO in hvd.DistributedOptimizer, 2 ranks, MPI"),
    ("4a", "ours, 2 ranks", "ours, 1 rank"),
    ("8a", "ours", "Stable-Baselines3"),
    ("8b", "ours", "Stable-Baselines3"),
    ("1", "hvd.allreduce_, idle yield", "ours"),
)
"""The rows of the README, by key, and the ratio that each shows: one rank and two, rollouts and replay; 4a and 8b are
there because they miss their targets."""


def load(folder: Path) -> dict[str, Result]:
    """The rows that were measured before, by key."""
    kept = read_json(folder / "RESULTS.json") or {}
    return {key: Result.from_json(row) for key, row in kept.items()}


def save(folder: Path, results: dict[str, Result]) -> None:
    ordered = dict(sorted(results.items()))
    write_json(folder / "RESULTS.json", {key: asdict(result) for key, result in ordered.items()})
    write_text(folder / "RESULTS.md", "\n".join([HEAD, *map(section, ordered.values())]))


def section(result: Result) -> str:
    lines = [f"## {result.key} · {result.title}", ""]
    lines += [f"| | {result.unit} | lowest to highest | rounds |", "|---|---|---|---|"]
    for score in result.scores:
        spread = f"{number(min(score.values))} to {number(max(score.values))}"
        lines.append(f"| {score.name} | {number(score.median)} | {spread} | {len(score.values)} |")
    lines += ["", "| ratio | measured | in single rounds | target | holds |", "|---|---|---|---|---|"]
    for verdict in result.verdicts:
        holds = {None: "", True: "yes", False: "**no**"}[verdict.holds]
        each = f"{verdict.low:.2f} to {verdict.high:.2f}"
        lines.append(
            f"| {verdict.of} / {verdict.against} | {verdict.ratio:.2f} | {each} | {verdict.target} | {holds} |"
        )
    lines += [""] + ([result.note, ""] if result.note else [])
    for score in result.scores:
        if score.shares:
            parts = sorted(score.shares.items(), key=lambda part: -part[1])
            shares = ", ".join(f"{name} {share:.0%}" for name, share in parts if share >= 0.005)
            lines.append(f"- {score.name}, where its time goes: {shares}.")
        told = f" (in the round of the median: {score.told})" if score.told else ""
        if score.command:
            lines.append(f"- {score.name}: `{score.command}`{told}")
    return "\n".join([*lines, "", result.birth.line(), ""])


def summary(results: Mapping[str, Result]) -> str:
    """The table of docs/benchmarks.md: medians of all contestants, and ratios with their targets."""
    lines = ["| | median | ratio (and its target) |", "|---|---|---|"]
    for result in results.values():
        medians = [median(result, score.name) for score in result.scores]
        ratios = [f"{verdict.of} / {verdict.against}: {judged(verdict)}" for verdict in result.verdicts]
        lines.append(f"| {result.title} | {'<br>'.join(medians)} | {'<br>'.join(ratios)} |")
    return "\n".join([*lines, "", births(results.values())])


def face(results: Mapping[str, Result]) -> str:
    """The table of the README: the rows of FACE, of each one ratio and its two medians."""
    lines = ["| | median | ratio (and its target) |", "|---|---|---|"]
    shown = [(results[key], of, against) for key, of, against in FACE if key in results]
    for result, of, against in shown:
        (verdict,) = [each for each in result.verdicts if (each.of, each.against) == (of, against)]
        lines.append(f"| {result.title} | {median(result, of)}<br>{median(result, against)} | {judged(verdict)} |")
    return "\n".join([*lines, "", births([result for result, _, _ in shown])])


def median(result: Result, name: str) -> str:
    (score,) = [score for score in result.scores if score.name == name]
    return f"{name}: {number(score.median)} {result.unit}"


def judged(verdict: Verdict) -> str:
    target = f" ({verdict.target}{'' if verdict.holds else ': missed'})" if verdict.target else ""
    return f"{verdict.ratio:.2f}{target}"


def births(results: Iterable[Result]) -> str:
    found = sorted({f"{result.birth.date[:10]}, {result.birth.cpu}" for result in results})
    return f"Measured by `make bench`: {'; '.join(found)}."


def quote(root: Path, results: Mapping[str, Result]) -> None:
    """Puts both tables into the pages below `root`. Raises ValueError where a page has no marks for it."""
    quoting.quote(root / "docs" / "benchmarks.md", COMMAND, summary(results))
    quoting.quote(root / "README.md", COMMAND, face(results))
