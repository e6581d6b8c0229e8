"""A place that cannot be written is refused before anything starts, in a line that names it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.errors import BadInput
from harness.lifecycle.run_directory import refuse_unwritable


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=f"--output {tmp_path}/file/run must be a directory: {tmp_path}/file is a file"):
        refuse_unwritable(tmp_path / "file" / "run")


def test_a_folder_that_is_read_only_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_unwritable(tmp_path / "new" / "run")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write into any folder
    with pytest.raises(BadInput, match=f"/run cannot be written: {tmp_path} is read-only, or somebody else's"):
        refuse_unwritable(tmp_path / "new" / "run")
    assert list(tmp_path.iterdir()) == []
