"""This checkout beside an earlier commit, taking turns: `python -m tests.benchmarks.before COMMIT [--rows 1,2,3]`.

Of each row what is ours runs, by the commit's own code (in a worktree that goes again) and by this one's.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.benchmarks.contest import ROOT, Contestant
from tests.benchmarks.figures import number
from tests.benchmarks.machine import Watch
from tests.benchmarks.rows import rows


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """A checkout of the commit; CalledProcessError where there is none."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "before"
        subprocess.run(["git", "worktree", "add", "--detach", "-q", str(path), commit], cwd=ROOT, check=True)
        try:
            yield path
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(path)], cwd=ROOT, check=True)


def compared(contestant: Contestant, figure: str, before: Path, rounds: int, more: list[str]) -> str:
    """A row of the table."""
    found: dict[Path, list[float]] = {before: [], ROOT: []}
    for turn in range(rounds):
        for root in (before, ROOT) if turn % 2 == 0 else (ROOT, before):
            found[root].append(replace(contestant, root=root).run(turn, *more)[figure])
    medians = [statistics.median(values) for values in found.values()]
    ratios = [after / earlier for earlier, after in zip(found[before], found[ROOT])]
    figures = " | ".join(number(median) for median in medians)
    return f"{figures} | {medians[1] / medians[0]:.3f} ({min(ratios):.3f} to {max(ratios):.3f}) |"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.before", description=__doc__)
    parser.add_argument("commit")
    parser.add_argument("--rows", default="1,2,3")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, help="how long a contestant measures")
    args = parser.parse_args()
    keys = tuple(key.strip() for key in args.rows.split(","))
    more = [] if args.seconds is None else ["--seconds", str(args.seconds)]
    print("| row | contestant | unit | before | now | ratio |\n|---|---|---|---|---|---|")
    with worktree(args.commit) as before, Watch() as watch:
        for key, row in rows().items():
            for contestant in row.contestants if key.startswith(keys) else ():
                if contestant.name.startswith("ours"):
                    found = compared(contestant, row.figure, before, args.rounds, more)
                    print(f"| {key} | {contestant.name} | {row.unit} | {found}", flush=True)
    print(f"\n{watch.birth(f'python -m tests.benchmarks.before {args.commit}').line()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
