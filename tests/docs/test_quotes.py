"""The tables of the pages are those of the results."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import results as bench
from tests.command import ROOT
from tests.docs.quoting import quote, quoted
from tests.learning import results as learn
from tests.learning.results import Standing
from tests.learning.rows import ROWS

BENCHMARKS = bench.load(ROOT / "tests" / "benchmarks")
LEARNED = learn.load(ROOT / "tests" / "learning")
STANDINGS = [Standing(row, LEARNED[key]) for key, row in ROWS.items() if key in LEARNED]
PAGES = {
    "docs/benchmarks.md": (bench.COMMAND, bench.summary(BENCHMARKS)),
    "docs/learning.md": (learn.COMMAND, learn.summary(STANDINGS)),
}
README = {
    bench.COMMAND: bench.face(BENCHMARKS),
    learn.COMMAND: learn.summary([each for each in STANDINGS if each.row.preset in learn.FACE]),
}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_the_whole_table(page: str) -> None:
    command, table = PAGES[page]
    assert quoted(ROOT / page, command) == table, "make docs"


@pytest.mark.parametrize("command", README)
def test_the_readme_has_six_rows_of_it(command: str) -> None:
    assert quoted(ROOT / "README.md", command) == README[command], "make docs"
    rows = [line for line in README[command].splitlines() if line.startswith("| ")]
    assert len(rows) - 1 <= 6


def test_a_page_without_the_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing here\n")
    with pytest.raises(ValueError, match="page.md has no <!-- from make bench -->"):
        quote(page, "make bench", "table")
    assert page.read_text() == "nothing here\n"
