"""How what rank 0 found comes to the parent."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.bench.launch import MARK, PIECE, Failed, hand_over, packed, read_lines, unpacked

FOUND = {"times": [number / 7 for number in range(1000)], "diverged": None}


def test_by_a_file_where_there_is_the_parents_folder(tmp_path, capsys):
    hand_over({**FOUND, "diverged": float("nan")}, tmp_path / "found.json")
    assert capsys.readouterr().out == "" and "NaN" not in (tmp_path / "found.json").read_text()


def test_by_short_lines_elsewhere(capsys):
    hand_over(FOUND, Path("/nowhere/found.json"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 10 and max(map(len, lines)) <= len(MARK) + PIECE
    assert read_lines(["something else", *lines]) == FOUND
    assert read_lines(["something else"]) is None
    with pytest.raises(Failed, match="lost on its way"):
        read_lines(lines[:4] + lines[5:])


def test_a_task_is_one_word_for_any_shell():
    task = ["throughput", {"config": {"env": {"id": "module:It's-v0", "kwargs": {"a": "$HOME; \\"}}}}]
    assert unpacked(packed(task)) == task
    assert packed(task).strip("=").replace("-", "").replace("_", "").isalnum()
