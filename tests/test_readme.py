"""What a newcomer reads first: the README, and the walk of docs/your-own.md, done as it is written there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.files import read_json
from tests.command import ROOT, environment
from tests.conftest import slow

MOST_LINES = 200


def write_files(text: str, folder: Path) -> list[str]:
    """Each block that begins with `# name.ext` becomes that file."""
    names = []
    for name, body in re.findall(r"^```\w+\n# (\S+\.(?:py|toml))\n(.*?)^```", text, re.M | re.S):
        (folder / name).write_text(body)
        names.append(name)
    return names


def commands(text: str) -> list[list[str]]:
    lines = re.findall(r"^\$ python (.*?)(?:\s+#.*)?$", text, re.M)
    return [[sys.executable, *line.split()] for line in lines]


def section(text: str, title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert found, f"docs/your-own.md has no section {title!r}"
    return found[1]


def of_the_run(folder: Path) -> None:
    result = read_json(folder / "runs" / "corridor-seed0" / "result.json")
    assert result["status"] == "done" and result["ranks"] == 2


def of_the_study(folder: Path) -> None:
    results = sorted((folder / "studies" / "corridor-study").glob("trial-*/seed-0/result.json"))
    assert len(results) == 6 and all(read_json(path)["ranks"] == 2 for path in results)


def of_the_script(folder: Path) -> None:
    reports = sorted((folder / "studies" / "script-study").glob("trial-*/reports.jsonl"))
    assert len(reports) == 5 and all(path.read_text().strip() for path in reports)


RESULTS = {"A run": of_the_run, "A study": of_the_study, "A script": of_the_script}
"""The sections that have a command, and what must be there after it."""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("title", ["A run", slow("A study"), "A script"])
def test_the_walk_with_things_of_ones_own_works_as_written(title: str, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "your-own.md").read_text()
    names = write_files(text, tmp_path)
    assert names == [
        *("corridor.py", "shared_net.py", "corridor.toml", "corridor-study.toml"),
        *("own_script.py", "script-study.toml"),
    ]
    assert len(commands(text)) == len(RESULTS), "every command has its section here"
    (command,) = commands(section(text, title))
    env = environment()
    env["PYTHONPATH"] = ""  # the checkout is installed; the folder of the user is where the command is typed
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    RESULTS[title](tmp_path)


def test_the_readme_is_short_and_names_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= MOST_LINES
    assert "$ make run" in readme and "$ make test" in readme
