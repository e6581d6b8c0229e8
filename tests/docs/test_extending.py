"""The code on the page about extending is that of the doors' tests, or lies in files that a test takes from there."""

from __future__ import annotations

import re
from pathlib import Path

from tests.command import ROOT
from tests.test_readme import write_files


def test_code_on_the_page_is_code_that_a_test_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "extending.md").read_text()
    tested = "".join(path.read_text() for path in sorted((ROOT / "tests" / "doors").glob("*.py")))
    shown = re.findall(r"```python\n(.*?)\n```", page, re.DOTALL)
    files = write_files(page, tmp_path)
    assert set(files) == {"averaging.py", "rounding.py"}, "tests/harness/distributed/test_doors.py runs them"
    run_from_here = [(tmp_path / name).read_text() for name in files]
    assert shown and all(code in tested or code.partition("\n")[2] + "\n" in run_from_here for code in shown)
