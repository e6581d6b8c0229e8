"""`make chaos FAULTS=100`: many faults, and a table of what came of them in tests/chaos/RESULTS.md."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from harness.files import append_json_line, read_json_lines
from tests.chaos.scene import RANKS, RUNS, UPDATES
from tests.chaos.sweep import Struck, sweep

RESULTS = Path(__file__).with_name("RESULTS.md")


def table(found: list[Struck], missing: dict[str, str]) -> str:
    """Markdown: a row for each kind of fault."""
    lines = [
        "| fault | count | how the attempts ended | lost | corrupt loaded | same end |",
        "|---|---|---|---|---|---|",
    ]
    for name in sorted({struck.fault for struck in found}):
        of_kind = [struck for struck in found if struck.fault == name]
        ends = Counter(struck.ended for struck in of_kind).most_common()
        how = "; ".join(f"{end} ({count})" for end, count in ends)
        lines.append(f"| {name} | {numbers(of_kind)[0]} | {how} | " + " | ".join(numbers(of_kind)[1:]) + " |")
    lines.append(f"| **all** | {numbers(found)[0]} | | " + " | ".join(numbers(found)[1:]) + " |")
    lines += [f"| {name} | skipped | {reason} | | | |" for name, reason in missing.items()]
    return "\n".join(lines)


def numbers(found: list[Struck]) -> list[str]:
    lost, corrupt = sum(struck.lost for struck in found), sum(struck.corrupt for struck in found)
    return [str(len(found)), str(lost), str(corrupt), f"{sum(struck.equal for struck in found)} of {len(found)}"]


def report(found: list[Struck], missing: dict[str, str], commit: str) -> str:
    runs = len({(struck.seed, struck.run) for struck in found})
    kinds = ", ".join(f"{kind}: {sum(each.kind == kind for each in found)} faults" for kind in RUNS)
    seeds = ", ".join(str(seed) for seed in sorted({struck.seed for struck in found}))
    minutes = sum(struck.seconds for struck in found) / 60
    troubles = [
        f"- seed {each.seed}, run {each.run}, {each.fault} ({each.what}): {trouble}"
        for each in found
        for trouble in each.troubles
    ]
    how = (
        f"`make chaos`, {len(found)} faults (seeds {seeds}), {time.strftime('%Y-%m-%d')}, commit {commit}: {runs} runs "
        f"({kinds}), {RANKS} ranks, {UPDATES} updates, each struck by up to four faults, one an attempt, by mpirun, "
        f"horovodrun or horovodrun-gloo; {minutes:.0f} minutes. Same end: the parameters are those of the undisturbed "
        "run to the bit, the final evaluation too, and each update is in the metrics once."
    )
    otherwise = "What went otherwise than it should:" if troubles else "Nothing went otherwise than it should."
    return "\n".join(["# Runs under faults", "", how, "", table(found, missing), "", otherwise, "", *troubles]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=100, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="the same seed draws the same faults")
    parser.add_argument("--add", action="store_true", help="to the outcomes that are there, with another seed")
    parser.add_argument("--folder", type=Path, help="where the runs are kept; by default they are not")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    kept = arguments.output.with_suffix(".jsonl")
    describe = ["git", "describe", "--always", "--dirty"]  # now: the outcomes that follow are no change of the code
    commit = subprocess.run(describe, capture_output=True, text=True).stdout.strip()
    if not arguments.add:
        kept.unlink(missing_ok=True)

    def keep(struck: Struck) -> None:
        append_json_line(kept, asdict(struck))

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is mounted and runs is cleared away
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        _, missing = sweep(arguments.folder or Path(folder), arguments.faults, arguments.seed, tell, keep)
    found = [Struck(**struck) for struck in read_json_lines(kept)[0]]
    arguments.output.write_text(report(found, missing, commit))
    print(table(found, missing))
    return 1 if any(struck.lost or struck.corrupt or struck.troubles for struck in found) else 0


def tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
