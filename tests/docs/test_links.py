"""Whatever the pages point at is there: files, headings, paths, tests and settings that they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.command import ROOT
from tests.docs.markdown import anchors, code, links, wrong_links, wrong_paths
from tests.docs.settings_page import page as settings_page

PAGES = ["README.md", "CHANGELOG.md", "slurm/README.md", "hostfiles/README.md"]
PAGES += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))
FOLDERS = ("harness", "search", "tests", "slurm", "hostfiles", "docs", ".ci")
SETTINGS = set(re.findall(r"^\| `([\w.]+)`", settings_page(), re.M)) | {"algorithm.name"}
SECTIONS = {name.rpartition(".")[0] for name in SETTINGS} - {""}
QUESTIONS = {
    "how do I train my environment": "docs/your-own.md#a-run",
    "how do I use my own network": "docs/your-own.md#a-network",
    "on two machines": "docs/launching.md#on-several-machines",
    "on Slurm": "slurm/README.md",
    "why did my run stop": "docs/failures.md#why-a-run-ended",
    "why does my run stand still": "docs/failures.md#when-a-rank-hangs",
    "where is the code of GAE": "docs/architecture.md#where-to-change-what",
    "how do I resume": "docs/checkpoints.md#resuming",
    "where is my checkpoint": "docs/checkpoints.md#where-they-are",
    "what does gae_lambda mean": "docs/settings.md#algorithm-ppo",
    "how fast is it": "docs/benchmarks.md",
    "how do I add a launcher": "docs/extending.md#a-launcher",
}
"""What a newcomer asks, and where the answer is: one click leads to the page, a second one to the heading."""


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    assert list(wrong_links(ROOT / page)) == []


@pytest.mark.parametrize("page", PAGES)
def test_every_path_and_test_in_backticks_is_there(page: str) -> None:
    assert list(wrong_paths(ROOT / page, ROOT, FOLDERS)) == []


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ("CHANGELOG.md", "docs/settings.md")])
def test_every_setting_in_backticks_exists(page: str) -> None:
    named = rf"((?:{'|'.join(map(re.escape, SECTIONS))})(?:\.[a-z_]+)+)(?: ?=.*)?"
    found = [match[1] for text in code(ROOT / page) if (match := re.fullmatch(named, text))]
    assert [name for name in found if name not in SETTINGS | SECTIONS] == []


def test_every_page_is_one_click_from_the_readme() -> None:
    reached = {link.partition("#")[0] for link in links(ROOT / "README.md")}
    assert [page for page in PAGES if page not in reached] == ["README.md", "CHANGELOG.md"]


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_newcomers_question_is_answered_in_two_clicks(question: str) -> None:
    page, _, heading = QUESTIONS[question].partition("#")
    assert page in {link.partition("#")[0] for link in links(ROOT / "README.md")}
    assert not heading or heading in anchors(ROOT / page)


def test_what_is_not_there_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A heading, *with* `code`\n\n## Twice\n\n## Twice\n\n```\n# no heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md) [b](other.md#a-heading-with-code) [c](other.md#twice-1) [d](#here) [e](https://a.b/c)\n"
        "[f](missing.md) [g](other.md#no-heading) `[h](in-code.md)` `tests/x.py::test_b` `tests/x.py` `tests/y.py`\n"
        "\n# Here\n\n```\n[i](in-a-block.md)\n```\n"
    )
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "x.py").write_text("def test_a():\n    pass\n")

    assert list(wrong_links(page)) == ["missing.md", "other.md#no-heading"]
    assert list(wrong_paths(page, tmp_path, ("tests",))) == ["tests/x.py::test_b", "tests/y.py"]
