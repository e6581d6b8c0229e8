"""What a newcomer reads first: the README, and the walk of docs/your-own.md, done as it is written there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from harness.files import read_json
from tests.command import ROOT, environment

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


def test_the_walk_with_things_of_ones_own_works_as_written(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "your-own.md").read_text()
    names = write_files(text, tmp_path)
    assert names == [
        *("corridor.py", "shared_net.py", "corridor.toml", "corridor-study.toml"),
        *("own_script.py", "script-study.toml"),
    ]
    env = environment()
    env["PYTHONPATH"] = ""  # the checkout is installed; the folder of the user is where the command is typed
    for command in commands(text):
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    run = read_json(tmp_path / "runs" / "corridor-seed0" / "result.json")
    assert run["status"] == "done" and run["ranks"] == 2
    results = sorted((tmp_path / "studies" / "corridor-study").glob("trial-*/seed-0/result.json"))
    assert len(results) == 6 and all(read_json(path)["ranks"] == 2 for path in results)
    reports = sorted((tmp_path / "studies" / "script-study").glob("trial-*/reports.jsonl"))
    assert len(reports) == 5 and all(path.read_text().strip() for path in reports)


def test_the_readme_is_short_and_names_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= MOST_LINES
    assert "$ make run" in readme and "$ make test" in readme
