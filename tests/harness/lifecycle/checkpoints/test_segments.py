"""Append-only segments: what rings hold comes back, no file is ever changed, and none is kept that nobody needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.buffers.ring import Ring
from harness.lifecycle.checkpoints.manifest import Segment, whole
from harness.lifecycle.checkpoints.segments import FOLDER, Segments, delete_unnamed

SLOTS = 10


class Log:
    """Two rings of `envs` environments, into which numbers are put; the second of them half as often."""

    def __init__(self, envs: int) -> None:
        self.arrays = {"a": np.zeros((envs, SLOTS, 2), np.float32), "b": np.zeros((envs, SLOTS), np.int64)}
        self.ends = {name: np.zeros(envs, np.int64) for name in self.arrays}

    def put(self, env: int, count: int) -> None:
        for _ in range(count):
            for name in ("a", "b") if self.ends["a"][env] % 2 else ("a",):
                number = self.ends[name][env]
                self.arrays[name][env, number % SLOTS] = 100 * env + number
                self.ends[name][env] += 1

    def rings(self) -> dict[str, Ring]:
        return {name: Ring(array, self.ends[name] - SLOTS, self.ends[name]) for name, array in self.arrays.items()}

    def kept(self, env: int) -> dict[str, np.ndarray]:
        ends = {name: int(end[env]) for name, end in self.ends.items()}
        return {name: self.arrays[name][env, np.arange(max(end - SLOTS, 0), end) % SLOTS] for name, end in ends.items()}


def loaded(directory: Path, segments: list[Segment], like: Log, first: int, count: int) -> Log:
    """A log of the environments `first … first + count - 1`, as a rank that goes on fills it."""
    log = Log(count)
    Segments(directory, 0, first, "later").load(directory, segments, log.rings())
    log.ends = {name: end[first : first + count].copy() for name, end in like.ends.items()}
    return log


def test_what_rings_hold_comes_back_however_often_they_went_round(tmp_path: Path) -> None:
    draw, log = np.random.default_rng(0), Log(3)
    saver = Segments(tmp_path, 0, 0, "token")
    for number in range(1, 40):
        for env in range(3):
            log.put(env, int(draw.integers(0, 14)))  # more than there are slots, too
        segments = [Segment.from_json(each.as_json()) for each in saver.write(saver.cut(log.rings()), number)]
        assert whole(tmp_path, segments)
        again = loaded(tmp_path, segments, log, 0, 3)
        for env in range(3):
            for name, expected in log.kept(env).items():
                assert np.array_equal(again.kept(env)[name], expected), (number, env, name)
        delete_unnamed(tmp_path, {segment.file for segment in segments})
        assert len(list((tmp_path / FOLDER).glob("*/*"))) == len(segments) < 25, "nothing is kept that is not needed"


def test_nothing_is_written_twice_and_no_file_is_changed(tmp_path: Path) -> None:
    log, saver = Log(1), Segments(tmp_path, 0, 0, "token")
    log.put(0, 4)
    saver.write(saver.cut(log.rings()), 1)
    (first,) = (tmp_path / FOLDER).glob("*/*")
    before = first.read_bytes(), first.stat().st_mtime_ns
    log.put(0, 3)
    segments = saver.write(saver.cut(log.rings()), 2)
    assert [segment.ranges["a"] for segment in segments] == [[[0, 4]], [[4, 7]]]
    assert (first.read_bytes(), first.stat().st_mtime_ns) == before
    assert saver.write(saver.cut(log.rings()), 3) == segments, "nothing new, no new file"


def test_parts_of_several_ranks_are_put_together_and_apart(tmp_path: Path) -> None:
    logs, segments = [Log(3), Log(2)], []
    for rank, (log, first) in enumerate(zip(logs, (0, 3))):
        saver = Segments(tmp_path, rank, first, "token")
        for number in (1, 2, 3):
            for env in range(len(log.ends["a"])):
                log.put(env, 3 + 2 * env + number)
            found = saver.write(saver.cut(log.rings()), number)
        segments += found
    everything = Log(5)
    everything.ends = {name: np.concatenate([log.ends[name] for log in logs]) for name in ("a", "b")}
    for first, count in ((0, 5), (2, 2), (4, 1)):
        again = loaded(tmp_path, segments, everything, first, count)
        for env in range(count):
            log, own = (logs[0], first + env) if first + env < 3 else (logs[1], first + env - 3)
            for name, expected in log.kept(own).items():
                assert np.array_equal(again.kept(env)[name], expected)


def test_a_replay_that_was_parted_and_put_together_again_comes_back(tmp_path: Path) -> None:
    """One rank, two, one: both of the two name the first one's file, whose numbers come before those of either."""
    whole_log, alone = Log(2), Segments(tmp_path, 0, 0, "one")
    for env in range(2):
        whole_log.put(env, SLOTS - 1)
    segments, of_both = alone.write(alone.cut(whole_log.rings()), 1), []
    for rank in range(2):
        log, saver = Log(1), Segments(tmp_path, rank, rank, "two")
        saver.load(tmp_path, segments, log.rings())
        log.ends = {name: end[rank : rank + 1].copy() for name, end in whole_log.ends.items()}
        log.put(0, 5)
        of_both += saver.write(saver.cut(log.rings()), 1)
        for name in log.arrays:
            whole_log.arrays[name][rank], whole_log.ends[name][rank] = log.arrays[name][0], log.ends[name][0]
    again, saver = Log(2), Segments(tmp_path, 0, 0, "three")
    saver.load(tmp_path, of_both, again.rings())
    again.ends = {name: end.copy() for name, end in whole_log.ends.items()}
    for env in range(2):
        for name, expected in whole_log.kept(env).items():
            assert np.array_equal(again.kept(env)[name], expected), (env, name)
    assert all((saver.saved[name] == end - 1).all() for name, end in again.ends.items())
    named = [segment.file for segment in saver.write(saver.cut(again.rings()), 1)]
    assert len(named) == len(set(named)) == 4


def test_the_next_attempt_names_the_files_of_the_one_before_and_writes_the_last_number_again(tmp_path: Path) -> None:
    log, saver = Log(1), Segments(tmp_path, 0, 0, "token")
    log.put(0, 4)
    segments = saver.write(saver.cut(log.rings()), 1)
    again, later = Log(1), Segments(tmp_path, 0, 0, "later")
    later.load(tmp_path, segments, again.rings())
    again.ends = {name: end.copy() for name, end in log.ends.items()}
    again.arrays["b"][0, 1] = -7  # its episode is marked as broken off
    found = later.write(later.cut(again.rings()), 1)
    assert [segment.file.split("/")[-1][:5] for segment in found] == ["token", "later"]
    assert [segment.ranges["b"] for segment in found] == [[[0, 2]], [[1, 2]]]
    assert loaded(tmp_path, found, log, 0, 1).kept(0)["b"].tolist() == [0, -7]


def test_a_run_in_another_directory_writes_all_of_it_for_itself(tmp_path: Path) -> None:
    log, saver = Log(1), Segments(tmp_path / "one", 0, 0, "token")
    log.put(0, 4)
    segments = saver.write(saver.cut(log.rings()), 1)
    again, other = Log(1), Segments(tmp_path / "two", 0, 0, "later")
    other.load(tmp_path / "one", segments, again.rings())
    again.ends = {name: end.copy() for name, end in log.ends.items()}
    (own,) = other.write(other.cut(again.rings()), 1)
    assert (tmp_path / "two" / own.file).is_file() and own.ranges["a"] == [[0, 4]]


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damage_is_seen(damage: str, tmp_path: Path) -> None:
    log, saver = Log(1), Segments(tmp_path, 0, 0, "token")
    log.put(0, 4)
    (segment,) = saver.write(saver.cut(log.rings()), 1)
    path = tmp_path / segment.file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data if damage == "flip" else data[:-1])
    if damage == "gone":
        path.unlink()
    assert not whole(tmp_path, [segment])
