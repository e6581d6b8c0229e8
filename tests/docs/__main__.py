"""Writes what is generated in the documentation: `make docs`, or `python -m tests.docs`.

docs/settings.md from the settings' docstrings; the tables of docs/benchmarks.md, docs/learning.md and the README from
the RESULTS.json of `make bench` and `make learn`.
"""

from __future__ import annotations

from harness.files import write_text
from tests.benchmarks import results as bench
from tests.command import ROOT
from tests.docs.settings_page import page
from tests.learning import results as learn


def main() -> None:
    write_text(ROOT / "docs" / "settings.md", page())
    bench.quote(ROOT, bench.load(ROOT / "tests" / "benchmarks"))
    learn.quote(ROOT, learn.load(ROOT / "tests" / "learning"))


if __name__ == "__main__":
    main()
