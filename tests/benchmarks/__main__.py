"""Runs rows of the table and writes RESULTS.md: `python -m tests.benchmarks [--rows 2,3] [--output DIR]`.

Each row is written as soon as it is measured; rows that were not asked for stay as they are. `--rows 2` means all rows
whose key begins so: 2a and 2b. `--quote` puts the tables into docs/benchmarks.md and the README.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.benchmarks.contest import ROOT
from tests.benchmarks.results import load, quote, save, section
from tests.benchmarks.rows import rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rows", default="", help="which, by comma; all where it is empty")
    parser.add_argument("--rounds", type=int, help="how often each contestant runs; each row has its own number")
    parser.add_argument("--seconds", type=float, help="how long a contestant measures; each has its own default")
    parser.add_argument("--quote", action="store_true", help="measure nothing: put the tables into the docs")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder of RESULTS.md")
    args = parser.parse_args()
    if args.quote:
        quote(ROOT, load(args.output))
        return 0
    wanted = [key.strip() for key in args.rows.split(",") if key.strip()]
    every = rows()
    for key in wanted:
        if not any(known.startswith(key) for known in every):
            print(f"make bench: there is no row {key}; ROWS may be some of {','.join(every)}", file=sys.stderr)
            return 2
    chosen = [row for key, row in every.items() if not wanted or key.startswith(tuple(wanted))]
    command = "make bench" + (f" ROWS={','.join(wanted)}" if wanted else "")
    failed = False
    for row in chosen:
        try:
            results = row.measure(command, args.rounds, args.seconds)
        except RuntimeError as error:  # the other rows are worth their time all the same
            print(f"make bench: row {row.key}: {error}", file=sys.stderr)
            failed = True
            continue
        save(args.output, {**load(args.output), **{result.key: result for result in results}})
        for result in results:
            print(f"\n{section(result)}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
