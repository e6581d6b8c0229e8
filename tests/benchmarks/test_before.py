"""An earlier commit and this checkout take turns, and the table compares their medians."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.before import compared, worktree
from tests.benchmarks.contest import ROOT, Contestant
from tests.conftest import need


def test_both_take_turns_and_medians_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, int]] = []

    def run(contestant: Contestant, seed: int, *more: str) -> dict[str, Any]:
        now = contestant.root == ROOT
        ran.append(("now" if now else "before", seed))
        return {"steps": (110.0, 120.0, 90.0)[seed] if now else 100.0}

    monkeypatch.setattr(Contestant, "run", run)
    row = compared(Contestant("ours", "tests.benchmarks.ours"), "steps", tmp_path, 3, [])
    assert row == "100 | 110 | 1.100 (0.900 to 1.200) |"
    assert [who for who, _ in ran] == ["before", "now", "now", "before", "before", "now"]
    assert [seed for _, seed in ran] == [0, 0, 1, 1, 2, 2]


def test_the_commits_code_is_there_meanwhile_and_gone_afterwards() -> None:
    need((ROOT / ".git").exists(), "the repository: this is an archive of it")
    with worktree("HEAD") as path:
        assert (path / "harness").is_dir()
    assert not path.exists()
    listed = subprocess.run(["git", "worktree", "list"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert str(path) not in listed
