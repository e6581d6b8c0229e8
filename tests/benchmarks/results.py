"""RESULTS.json, which keeps each row's last run, and RESULTS.md, the table made of it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from harness.files import read_json, write_json, write_text
from tests.benchmarks.figures import Result, number

HEAD = """# What `make bench` measured

Contestants take turns (A B C A B C …), each in processes of its own, with one torch thread a rank, warmed up before
the clock starts. A figure is the median of its rounds, with the lowest and the highest; a ratio is that of the medians,
with those of single rounds. Made by `make bench` (some rows: `make bench ROWS=2,3`); each row tells its own date and
machine.
"""
MARKS = "<!-- from make bench -->", "<!-- to here -->"


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


def summary(results: dict[str, Result]) -> str:
    """The table that the README quotes: medians, and ratios with their targets."""
    lines = ["| | median | ratio (and what it is to be) |", "|---|---|---|"]
    for result in results.values():
        medians = [f"{score.name}: {number(score.median)} {result.unit}" for score in result.scores]
        ratios = []
        for verdict in result.verdicts:
            target = f" ({verdict.target}{'' if verdict.holds else ': missed'})" if verdict.target else ""
            ratios.append(f"{verdict.of} / {verdict.against}: {verdict.ratio:.2f}{target}")
        lines.append(f"| {result.title} | {'<br>'.join(medians)} | {'<br>'.join(ratios)} |")
    births = sorted({f"{result.birth.date[:10]}, {result.birth.cpu}" for result in results.values()})
    return "\n".join([*lines, "", f"Measured by `make bench`: {'; '.join(births)}."])


def quote(readme: Path, results: dict[str, Result]) -> None:
    """Puts the summary between the two marks in the README. Raises ValueError where they are missing."""
    text = readme.read_text()
    before, mark, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not mark or not end:
        raise ValueError(f"{readme} has no {' … '.join(MARKS)}")
    write_text(readme, f"{before}{mark}\n\n{summary(results)}\n\n{end}{after}")
