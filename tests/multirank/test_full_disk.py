"""A disk that is full from the start: the ranks end together, with a line that says so."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import harness
from tests.conftest import need, slow
from tests.multirank.test_failures import left_of


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    need(done.returncode == 0, f"mounting needs root: {done.stderr}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("left", [20_000, slow(0), slow(40_000)])
def test_ranks_on_a_full_disk_end_with_a_line(left: int, small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - left))
    options = ["run.name=full", "run.steps=4096", "--ranks", "2", "--launcher", "mpirun", "--output", "run"]
    ran = harness("train", "ppo-cartpole", *options, cwd=small_disk, seconds=60)
    printed = ran.out + ran.err
    assert ran.code == 1 and "No space left on device" in printed, printed
    assert "Traceback" not in "".join(line for line in printed.splitlines(True) if not line.startswith("  | ")), printed
    assert not left_of("full-")
