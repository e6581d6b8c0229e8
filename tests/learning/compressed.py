"""Does it learn from compressed gradients? `python -m tests.learning.compressed [--kinds A,B] [--seeds N|A,B]`.

Trains each preset on two ranks by every compressor, with error feedback, and compares what it reached with what it
has to. Resumable as `make learn` is; writes COMPRESSED.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from harness.compression_settings import COMPRESSION_KINDS
from harness.distributed.world import available_cores
from harness.files import read_json, write_json, write_text
from tests.command import ROOT
from tests.learning.results import origin, without_curve
from tests.learning.rows import FULL_EACH, LEAST_SEEDS, SEEDS_FROM, Row, seeds_of
from tests.learning.runs import Ledger, Record, StopRequest, merged, run_all

LEAST = {"ppo-cartpole": FULL_EACH, "supervised-digits": 0.96}
"""What each seed has to reach: a mean return, an accuracy."""
OVERRIDES = {
    ("ppo-cartpole", "sign"): ("compression.block=16",),
    ("ppo-cartpole", "top_k"): ("compression.fraction=0.1",),
    ("ppo-cartpole", "random_k"): ("compression.fraction=0.25", "optimizer.lr=2e-3"),
    ("supervised-digits", "top_k"): ("compression.fraction=0.05",),
    ("supervised-digits", "random_k"): ("compression.fraction=0.25",),
}
"""What a preset needs beside the kind. With Adam a step is as large for a gradient that is mostly noise: what is left
out must not be large beside what is sent."""
HEAD = f"""# Learning from compressed gradients

Each preset on two ranks by every `compression.kind`, with error feedback; `none` beside them. The value is that of the
final evaluation; every seed has to reach the threshold, and a row of fewer than {LEAST_SEEDS} seeds is not judged. What
the commands say beside the kind was found by trying seeds 0 and 1 of ppo-cartpole. Made by
`python -m tests.learning.compressed`.

"""
Runs = dict[str, list[Record]]
"""By `name`."""


def name(preset: str, kind: str) -> str:
    return f"{preset} {kind}"


def row(preset: str, kind: str) -> Row:
    feedback = () if kind == "none" else ("compression.error_feedback=true",)
    settings = (f"compression.kind={kind}", *feedback, *OVERRIDES.get((preset, kind), ()))
    return Row(preset, LEAST[preset], 0, 0, ranks=2, overrides=settings)


def table(kept: Mapping[str, Sequence[Record]]) -> str:
    lines = ["| preset | kind | seeds | mean | least | threshold | reached |", "|" + "---|" * 7]
    for key, records in kept.items():
        preset, kind = key.split()
        values = [record.value for record in records if record.value is not None]
        reached = len(values) == len(records) and min(values) >= LEAST[preset]
        verdict = "yes" if reached else "**no**"
        if len(records) < LEAST_SEEDS:
            verdict = f"not judged: {len(records)} of {LEAST_SEEDS} seeds"
        figures = [f"{statistics.fmean(values):.4g}", f"{min(values):.4g}"] if values else ["diverged"] * 2
        lines.append(f"| {' | '.join([preset, kind, str(len(records)), *figures, f'{LEAST[preset]:g}', verdict])} |")
    return "\n".join([*lines, "", ""])


def section(key: str, records: Sequence[Record]) -> str:
    preset, kind = key.split()
    seeds = "; ".join(f"{record.seed}: {record.value}" for record in records)
    command = f"`python -m harness {' '.join(row(preset, kind).command('SEED'))}`"
    return f"- {key}: {seeds}. {command}, {origin(records)}.\n"


def load(folder: Path) -> Runs:
    kept = read_json(folder / "COMPRESSED.json") or {}
    return {key: [Record.of(each) for each in records] for key, records in kept.items()}


def together(folder: Path, keys: Iterable[str], ledger: Ledger) -> Runs:
    """What stands of these as their presets are now, and what the ledger has."""
    standing = load(folder)
    rows = {key: row(*key.split()) for key in keys}
    return {key: merged(each, standing.get(key, []), ledger.records(each)) for key, each in rows.items()}


def save(folder: Path, keys: Iterable[str], ledger: Ledger) -> Runs:
    """Writes these anew, beside what stands of others."""
    every = {**load(folder), **{key: runs for key, runs in together(folder, keys, ledger).items() if runs}}
    every = {key: every[key] for key in sorted(every)}
    write_json(folder / "COMPRESSED.json", {key: [*map(without_curve, every[key])] for key in every})
    write_text(folder / "COMPRESSED.md", HEAD + table(every) + "".join(section(*each) for each in every.items()))
    return every


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.learning.compressed", description=__doc__)
    parser.add_argument("--presets", default=",".join(LEAST), help="which, by comma")
    parser.add_argument("--kinds", default=",".join(COMPRESSION_KINDS), help="which, by comma")
    seeds_help = f"how many, from {SEEDS_FROM} on, or which, by comma"
    parser.add_argument("--seeds", type=seeds_of, default=seeds_of(str(LEAST_SEEDS)), help=seeds_help)
    parser.add_argument("--jobs", type=int, help="runs side by side; default: one for two cores")
    parser.add_argument("--minutes", type=float, help="stop what runs after so many, to go on next time")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "learn", help="folder of the runs")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder of COMPRESSED.md")
    args = parser.parse_args()
    ledger = Ledger(args.runs)
    for asked, known in ((args.presets, LEAST), (args.kinds, COMPRESSION_KINDS)):
        unknown = [each for each in asked.split(",") if each not in known]
        if unknown:
            print(f"compressed: {unknown[0]} is none of {','.join(known)}", file=sys.stderr)
            return 2
    keys = [name(preset, kind) for preset in args.presets.split(",") for kind in args.kinds.split(",")]
    finished = {key: {record.seed for record in runs} for key, runs in together(args.output, keys, ledger).items()}
    wanted = [(row(*key.split()), seed) for key in keys for seed in args.seeds if seed not in finished[key]]
    made, jobs = 0, args.jobs or max(1, len(available_cores()) // 2)
    with StopRequest(args.minutes) as stop:
        for record in run_all(wanted, ledger, jobs, stop, lambda text: print(text, flush=True)):
            made += 1
            print(f"{record.command}: {record.value}", flush=True)
            save(args.output, keys, ledger)
    print(f"\n{table(save(args.output, keys, ledger))}")
    return 0 if made == len(wanted) else 1


if __name__ == "__main__":
    sys.exit(main())
