"""Saving in a thread: what is written is what was copied, and a save that fails harms nothing."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.buffers.ring import Ring
from harness.config import load_run_config
from harness.distributed.transports.base import Alone
from harness.files import read_json, write_json
from harness.lifecycle.checkpoints import checkpoint
from harness.lifecycle.checkpoints.manifest import RankPart
from harness.lifecycle.checkpoints.saver import Saver, Snapshot
from harness.lifecycle.checkpoints.serialization import write_tensors
from harness.run.train import train
from tests.conftest import need, wait_for
from tests.multirank.stopped_run import go


def snapshot(
    step: int, weights: torch.Tensor, last: float | None = None, rings: dict[str, Ring] | None = None
) -> Snapshot:
    """`last`: the mean of the last evaluation."""
    state: dict[str, Any] = {"module": {"weight": weights}}
    own = {"observations": np.full((2, 3), step, np.float32)}
    return Snapshot(step, state, {"env_steps": step, "last": last}, {"seed": 3}, own, rings or {})


def test_what_changes_after_the_copy_is_not_in_it(tmp_path: Path) -> None:
    """The thread waits until the weights have changed: it must have its own."""
    go_on, weights = threading.Event(), torch.zeros(5)
    saver = Saver(tmp_path, Alone(), (0, 2, 2), settle_files=lambda: go_on.wait(10) and None)
    saver.save(snapshot(7, weights))
    weights += 1
    assert saver.busy and not (tmp_path / "latest").exists(), "nothing counts before the manifest is there"
    go_on.set()
    assert saver.settle() is None
    found = checkpoint.load(tmp_path / "latest")
    assert found is not None and found.state["module"]["weight"].sum() == 0
    part, own = found.part(found.parts[0])
    assert (part.own["observations"] == 7).all() and "generators" in own
    assert found.progress == {"env_steps": 7, "last": None} and found.config == {"seed": 3} and found.ranks == 1


class First(Alone):
    """Rank 0 of two, of which the other does as it does."""

    size = 2

    def gather_objects(self, value: Any) -> list[Any]:
        return [value, value]


def test_a_part_that_is_awaited_is_not_asked_for_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS would remember that it was not there, and go on saying so when it is."""
    asked: list[Path] = []

    def read(path: Path) -> Any:
        asked.append(path)
        return read_json(path)

    monkeypatch.setattr("harness.lifecycle.checkpoints.saver.read_json", read)
    saver = Saver(tmp_path, First(), (0, 1, 2))
    saver.save(snapshot(1, torch.ones(1)))
    wait_for(lambda: asked, 10, "look at rank 0's own part")
    time.sleep(0.2)
    (aside,) = tmp_path.glob(".step-*")
    other, written = RankPart(1, 1, 1, 2), write_tensors(aside / "rank-1.pt", {})
    write_json(aside / "rank-1.json", {**other.as_json(), **written.as_json()})
    assert saver.settle() is None and [path.name for path in asked] == ["rank-0.json", "rank-1.json"]
    found = checkpoint.load(tmp_path / "latest")
    assert found is not None and [part.rank for part in found.parts] == [0, 1]
    assert {path.name for path in found.directory.iterdir()} == {"state.pt", "rank-0.pt", "rank-1.pt", "manifest.json"}


def test_a_directory_that_cannot_be_made_costs_the_checkpoints_alone(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    saver = Saver(tmp_path / "checkpoints", Alone(), (0, 2, 2))
    saver.save(snapshot(1, torch.ones(1)))
    problem = saver.settle()
    assert problem is not None and problem.startswith("no checkpoint of 1 steps: ")


def test_the_newest_and_the_best_are_kept_with_their_segments(tmp_path: Path) -> None:
    saver, count = Saver(tmp_path, Alone(), (0, 2, 2), keep=2), np.zeros(2, np.int64)
    array = np.zeros((2, 4))
    for step in range(1, 7):
        array[:, count % 4] = step
        count = count + 1
        saver.save(snapshot(step, torch.ones(1), float(step == 2), {"rewards": Ring(array, count - 4, count)}))
        assert saver.settle() is None
    assert [path.name for path in checkpoint.saved_steps(tmp_path)] == [f"step-{step:09d}" for step in (2, 5, 6)]
    assert all(checkpoint.load(path) is not None for path in checkpoint.saved_steps(tmp_path))
    assert (tmp_path / "best").resolve().name == "step-000000002"
    written = {path.name.rpartition("-")[2] for path in (tmp_path / "replay").glob("*/*")}
    assert written == {f"{step:06d}.pt" for step in range(1, 7)}, "1 and 2 for the best, 2 … 6 for the newest"


def test_all_that_a_manifest_names_is_on_the_disk_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files, and the folders that hold their names; and the checkpoint's own name after it."""
    synced: list[str] = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}")).relative_to(tmp_path.resolve())
        synced.append("/".join("aside" if part.startswith(".step-") else part for part in path.parts))

    saver, array = Saver(tmp_path, Alone(), (0, 2, 2)), np.ones((2, 4))
    monkeypatch.setattr(os, "fsync", recorded)
    for step in (1, 2):
        synced.clear()
        end = np.full(2, step)
        saver.save(snapshot(step, torch.ones(1), rings={"rewards": Ring(array, end - 4, end)}))
        assert saver.settle() is None
        manifest = next(at for at, name in enumerate(synced) if "manifest" in name)
        folders = ["replay/rank-0", "replay"] if step == 1 else ["replay/rank-0"]
        assert synced[0] == f"replay/rank-0/{saver.token}-{step:06d}.pt" and synced[1 : 1 + len(folders)] == folders
        assert {"aside/state.pt", "aside/rank-0.pt"} < set(synced[:manifest])
        assert synced[manifest + 1 :] == ["aside", ""]


def test_a_run_in_a_relative_directory_goes_on_with_the_segments_that_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    end, folder = np.full(2, 3), Path("run/checkpoints")
    rings = {"rewards": Ring(np.ones((2, 4)), end - 4, end)}
    for step in (1, 2):
        saver = Saver(folder, Alone(), (0, 2, 2))
        found = checkpoint.load(folder / "latest")
        if found is not None:
            saver.segments.load(found.directory.parent, found.parts[0].segments, rings)
        saver.save(snapshot(step, torch.ones(1), rings=rings))
        assert saver.settle() is None
    found = checkpoint.load(folder / "latest")
    assert found is not None
    ranges = [segment.ranges["rewards"] for segment in found.parts[0].segments]
    assert ranges == [[[0, 3]] * 2, [[2, 3]] * 2], "but for the last number, nothing is written twice"


def test_latest_and_best_are_marked_by_the_next_attempt_where_the_process_died_before_it_could(tmp_path: Path) -> None:
    saver = Saver(tmp_path, Alone(), (0, 2, 2))
    for step in (1, 2):
        saver.save(snapshot(step, torch.ones(1), last=float(step)))
        assert saver.settle() is None
    for link in ("latest", "best"):
        checkpoint.point(tmp_path / link, "step-000000001")
    Saver(tmp_path, Alone(), (0, 2, 2))
    assert {(tmp_path / link).resolve().name for link in ("latest", "best")} == {"step-000000002"}


@pytest.mark.parametrize("file", ["rank-0.pt", "replay"])
def test_a_damaged_part_or_segment_makes_it_a_damaged_checkpoint(file: str, tmp_path: Path) -> None:
    saver, array = Saver(tmp_path, Alone(), (0, 2, 2)), np.ones((2, 4))
    for step in (1, 2):
        end = np.full(2, step)
        saver.save(snapshot(step, torch.ones(1), rings={"rewards": Ring(array, end - 4, end)}))
        assert saver.settle() is None
    newest = tmp_path / "step-000000002"
    path = newest / file if file == "rank-0.pt" else sorted((tmp_path / "replay").glob("*/*"))[-1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert checkpoint.newest(tmp_path) == (tmp_path / "step-000000001", [newest])
    assert checkpoint.load(newest, state_alone=True) is not None or file == "replay", "the policy is still there"


@pytest.mark.parametrize("fails", ["latest", "best", "rmtree"])
def test_a_save_that_came_about_is_none_the_less_kept_where_only_the_tidying_fails(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where there is no room for a link, or NFS keeps a file that somebody reads; the next save puts it in order."""
    point, rmtree = checkpoint.point, shutil.rmtree

    def no_room(link: Path, target: str) -> None:
        if link.name == fails:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        point(link, target)

    def not_empty(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        rmtree(path, ignore_errors)

    saver = Saver(tmp_path, Alone(), (0, 2, 2), keep=1)
    saver.save(snapshot(1, torch.ones(1), last=1.0))
    assert saver.settle() is None
    with monkeypatch.context() as broken:
        broken.setattr(*((shutil, "rmtree", not_empty) if fails == "rmtree" else (checkpoint, "point", no_room)))
        saver.save(snapshot(2, torch.ones(1), last=2.0))
        assert saver.settle() is None
    (notice,) = saver.notices
    why = os.strerror(errno.ENOTEMPTY if fails == "rmtree" else errno.ENOSPC)
    assert notice.startswith("the checkpoint of 2 steps is kept") and why in notice
    assert checkpoint.load(tmp_path / "step-000000002") is not None
    saver.save(snapshot(3, torch.ones(1), last=3.0))
    assert saver.settle() is None and len(saver.notices) == 1
    assert [path.name for path in checkpoint.saved_steps(tmp_path)] == ["step-000000003"]
    assert {(tmp_path / link).resolve().name for link in ("latest", "best")} == {"step-000000003"}


def test_a_run_saves_by_the_clock_between_evaluations(tmp_path: Path) -> None:
    settings = ["ppo-cartpole", "run.steps=5120", "evaluation.count=1", "evaluation.episodes=1", "compile.mode=off"]
    settings += ["evaluation.final_episodes=1", "checkpoint.keep=100"]
    go(str(tmp_path / "seldom"), settings)
    go(str(tmp_path / "often"), [*settings, "checkpoint.every_minutes=0.0001"])
    counts = {name: len(checkpoint.saved_steps(tmp_path / name / "checkpoints")) for name in ("seldom", "often")}
    assert counts["seldom"] == 1 and counts["often"] > 3


def test_a_run_that_goes_on_from_its_last_checkpoint_does_not_write_it_again(tmp_path: Path) -> None:
    """As after it died in its final evaluation. From that of another run, it writes its own."""
    settings = ["ppo-cartpole", "run.steps=512", "evaluation.count=1", "evaluation.episodes=1", "compile.mode=off"]
    settings += ["evaluation.final_episodes=1"]
    go(str(tmp_path / "one"), settings)
    kept = tmp_path / "one" / "checkpoints" / "latest"
    before = kept.stat().st_ino
    (tmp_path / "one" / "result.json").unlink()
    assert go(str(tmp_path / "one"), settings)["status"] == "done" and kept.stat().st_ino == before
    train(load_run_config(settings[0], settings[1:]), tmp_path / "two", resume=str(kept))
    assert (tmp_path / "two" / "checkpoints" / "latest").resolve().name == kept.resolve().name


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True
        ).returncode
    )
    need(mounted, "the right to mount a tmpfs")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_disk_that_fills_leaves_the_last_checkpoint_and_the_next_save_is_tried_again(small_disk: Path) -> None:
    saver = Saver(small_disk, Alone(), (0, 2, 2), keep=1)
    saver.save(snapshot(1, torch.zeros(100_000), last=0.0))
    assert saver.settle() is None
    saver.save(snapshot(2, torch.zeros(2_000_000), last=2.0))
    assert saver.settle() == "no checkpoint of 2 steps: No space left on device"
    assert [path.name for path in small_disk.iterdir() if "step" in path.name] == ["step-000000001"]
    assert checkpoint.load(small_disk / "latest") is not None
    for step, last in ((3, 2.0), (4, 2.0), (5, 1.0)):
        saver.save(snapshot(step, torch.zeros(100_000), last))
        assert saver.settle() is None and (small_disk / "latest").resolve().name == f"step-{step:09d}"
    assert (small_disk / "best").resolve().name == "step-000000003", "the first after the best evaluation that was kept"


def test_a_run_goes_on_when_the_disk_fills_during_a_save_and_says_so(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint takes 1 MB, of which a third is left."""
    settings = ["dqn-cartpole", "env.count=2", "run.steps=3000", "evaluation.count=3"]
    settings += [
        "evaluation.episodes=2",
        "evaluation.final_episodes=2",
        "compile.mode=off",
        "logging.tensorboard=false",
    ]
    settings += ["network.hidden=[256, 256]", "algorithm.train_freq=8", "checkpoint.keep=1"]
    settings += ["algorithm.gradient_steps=1", "algorithm.learning_starts=100"]
    filler = small_disk / "filler"
    ended = go(str(small_disk / "run"), [*settings, "run.steps=1000"])
    assert ended["status"] == "done"
    free = os.statvfs(small_disk)
    filler.write_bytes(b"\0" * (free.f_bavail * free.f_bsize - 300_000))
    ended = go(str(small_disk / "run"), settings)
    out = capsys.readouterr().out
    assert ended["status"] == "done" and "no checkpoint of 2,816 steps: No space left on device" in out
    assert "no checkpoint of" in (ended["reason"] or "")
    kept = checkpoint.saved_steps(small_disk / "run" / "checkpoints")
    assert kept[-1].name == "step-000000768" and all(checkpoint.load(path) is not None for path in kept)
    assert not list((small_disk / "run" / "checkpoints").glob(".step-*"))
    filler.unlink()
