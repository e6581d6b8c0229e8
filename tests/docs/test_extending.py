"""The code on the page about extending is that of the doors' tests, which run it."""

from __future__ import annotations

import re

from tests.command import ROOT


def test_code_on_the_page_is_code_that_a_test_runs() -> None:
    page = (ROOT / "docs" / "extending.md").read_text()
    tested = "".join(path.read_text() for path in sorted((ROOT / "tests" / "doors").glob("*.py")))
    shown = re.findall(r"```python\n(.*?)\n```", page, re.DOTALL)
    assert shown and all(code in tested for code in shown)
