"""Who is given up, and who is not: signs of life as files, a clock that the test turns."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from harness.distributed.transports.base import Alone
from harness.lifecycle import heartbeat, watchdog
from harness.lifecycle.heartbeat import Beat, Heartbeat, read_beats, write_over
from harness.lifecycle.watchdog import Hang, RanksWatch, Watch
from tests.conftest import wait_for

FIRST = Beat(
    rank=0, host="a", pid=7, number=1, progress=1, waits=True, where="all_reduce_ (mpi.py:1)", time=0.0
)
SECOND = Beat(rank=1, host="b", pid=8, number=1, progress=1, waits=False, where="step (simulator.py:210)", time=0.0)


class Ranks:
    """Two ranks that beat as the test has it, and the watch over them."""

    def __init__(self, folder: Path, clock: pytest.MonkeyPatch, state: str, hang_seconds: float = 60.0) -> None:
        self.folder, self.now, self.beats = folder, 100.0, [FIRST, SECOND]
        (folder / "heartbeats").mkdir()
        clock.setattr(heartbeat.time, "monotonic", lambda: self.now)
        self.asked: list[int] = []
        self.watch = Watch(folder, hang_seconds, lambda beat: self.asked.append(beat.rank) or state, ["a", "b"])

    def passes(
        self,
        seconds: float,
        silent: tuple[int, ...] = (),
        stuck: tuple[int, ...] = (),
        each: float = 1.0,
        missing: tuple[int, ...] = (),
    ):
        """What the watch finds while so many seconds pass; there is no file of the `missing`."""
        for _ in range(int(seconds / each)):
            self.now += each
            for rank, beat in enumerate(self.beats):
                if rank not in silent:
                    self.beats[rank] = replace(
                        beat, number=beat.number + 1, progress=beat.progress + (rank not in stuck)
                    )
                path = self.folder / "heartbeats" / f"rank-{rank}.json"
                if rank in missing:
                    path.unlink(missing_ok=True)
                else:
                    write_over(path, json.dumps(asdict(self.beats[rank])))
            if (found := self.watch.look()) is not None:
                return found
        return None


def test_a_stopped_rank_is_found_after_10_s_of_silence(tmp_path, monkeypatch) -> None:
    ranks = Ranks(tmp_path, monkeypatch, "stopped")
    assert ranks.passes(5) is None and ranks.passes(9, silent=(1,)) is None
    found = ranks.passes(3, silent=(1,))
    assert (found.rank, found.host) == (1, "b") and "stopped by SIGSTOP" in found.cause


def test_a_host_that_does_not_answer_is_named_with_what_was_said(tmp_path, monkeypatch) -> None:
    found = Ranks(tmp_path, monkeypatch, "No route to host").passes(20, silent=(1,))
    assert found.host == "b" and "does not answer: No route to host" in found.cause


def test_a_process_that_only_keeps_python_waiting_is_not_silent(tmp_path, monkeypatch) -> None:
    ranks = Ranks(tmp_path, monkeypatch, "running", hang_seconds=1000)
    assert ranks.passes(50, silent=(1,)) is None
    assert set(ranks.asked) == {1} and len(ranks.asked) >= 4


def test_the_rank_that_the_others_wait_for_is_to_blame(tmp_path, monkeypatch) -> None:
    ranks = Ranks(tmp_path, monkeypatch, "running")
    assert ranks.passes(55, stuck=(0, 1)) is None, "not yet"
    found = ranks.passes(10, stuck=(0, 1))
    assert found.rank == 1 and "no progress for 60 s, in step (simulator.py:210)" in found.cause


def test_a_rank_that_goes_on_while_the_other_waits_is_no_hang(tmp_path, monkeypatch) -> None:
    assert Ranks(tmp_path, monkeypatch, "running").passes(300, stuck=(0,)) is None


@pytest.mark.parametrize("missing, blamed", [((0, 1), 0), ((1,), 1)])
def test_a_rank_that_never_gives_a_sign_of_life_is_found_where_all_wait_for_it(
    missing: tuple[int, ...], blamed: int, tmp_path, monkeypatch
) -> None:
    """A short limit is not meant for imports."""
    ranks = Ranks(tmp_path, monkeypatch, "running")
    assert ranks.passes(595, stuck=(0, 1), missing=missing) is None, "not yet"
    found = ranks.passes(10, stuck=(0, 1), missing=missing)
    assert (found.rank, found.host) == (blamed, "ab"[blamed])
    assert "no sign of life, and no progress of the others for 600 s" in found.cause


def test_ranks_that_hang_after_their_last_sign_of_life_are_found(tmp_path, monkeypatch) -> None:
    ranks = Ranks(tmp_path, monkeypatch, "running")
    assert ranks.passes(100) is None and ranks.passes(595, missing=(0, 1)) is None
    assert ranks.passes(10, missing=(0, 1)) is not None


def test_a_rank_whose_host_does_not_share_the_directory_is_no_hang(tmp_path, monkeypatch) -> None:
    assert Ranks(tmp_path, monkeypatch, "running").passes(2000, missing=(1,)) is None


def test_a_rank_that_was_lost_does_not_hide_that_the_others_hang(tmp_path, monkeypatch) -> None:
    ranks = Ranks(tmp_path, monkeypatch, "running")
    ranks.watch.hosts = ["a"]  # elastic, one rank at least
    assert ranks.passes(20) is None
    found = ranks.passes(70, stuck=(0,), missing=(1,))
    assert found.rank == 0 and "no progress for 60 s" in found.cause


def test_time_in_which_the_watcher_itself_stood_still_is_nobodys_silence(tmp_path, monkeypatch) -> None:
    ranks = Ranks(tmp_path, monkeypatch, "stopped")
    assert ranks.passes(3) is None
    assert ranks.passes(200, silent=(0, 1), each=100.0) is None


def test_nobody_is_judged_by_a_directory_that_cannot_be_written_to(tmp_path, monkeypatch) -> None:
    ranks = Ranks(tmp_path, monkeypatch, "stopped")
    assert ranks.passes(3) is None
    (tmp_path / "heartbeats" / "parent.json").unlink()
    (tmp_path / "heartbeats" / "parent.json").mkdir()
    assert ranks.passes(60, silent=(0, 1)) is None


def test_a_silent_rank_that_nobody_can_ask_for_is_to_blame_once_all_wait(tmp_path, monkeypatch) -> None:
    ranks = Ranks(tmp_path, monkeypatch, "unknown")
    ranks.beats[1] = replace(SECOND, waits=True)
    assert ranks.passes(5) is None and ranks.passes(55, silent=(1,)) is None
    assert ranks.passes(70, silent=(1,), stuck=(0,)).rank == 1


@pytest.mark.parametrize("looks, blamed, given_up", [(0, 1, [1]), (1, 0, [0]), (1, 1, [])])
def test_ranks_look_after_each_other(looks: int, blamed: int, given_up: list[int], tmp_path, monkeypatch) -> None:
    """Rank 0 after the others, rank 1 after rank 0."""
    ranks, found = Ranks(tmp_path, monkeypatch, ""), list[Hang]()
    among = RanksWatch(tmp_path, looks, 2, "ab"[blamed], 600.0, found.append)
    monkeypatch.setattr(ranks.watch, "look", among.look)
    monkeypatch.setattr(watchdog.psutil.Process, "status", lambda self: "stopped")
    ranks.beats = [replace(beat, pid=os.getpid()) for beat in ranks.beats]
    assert ranks.passes(5) is None and ranks.passes(29, silent=(blamed,)) is None and not found
    ranks.passes(2, silent=(blamed,))
    assert [hang.rank for hang in found[:1]] == given_up


def test_ranks_that_do_not_see_all_the_others_do_not_judge(tmp_path, monkeypatch) -> None:
    ranks, found = Ranks(tmp_path, monkeypatch, ""), list[Hang]()
    monkeypatch.setattr(ranks.watch, "look", RanksWatch(tmp_path, 0, 2, "a", 60.0, found.append).look)
    ranks.passes(2000, stuck=(0,), missing=(1,))
    assert not found


def test_a_rank_beats_while_its_training_thread_does_not_and_tells_where_that_is(tmp_path) -> None:
    began = threading.Event()

    def sleeps_in_training() -> None:
        with Heartbeat(tmp_path, 3, "here"):
            began.set()
            time.sleep(2.5)

    training = threading.Thread(target=sleeps_in_training)
    training.start()
    began.wait()
    time.sleep(1.8)
    beat = read_beats(tmp_path)[3]
    assert beat.number >= 2 and beat.progress == 0 and beat.where.startswith("sleeps_in_training (test_heartbeat.py:")
    training.join()
    assert not read_beats(tmp_path), "a good end leaves nothing"


def test_a_beat_tells_whether_its_rank_waits_in_a_call_of_any_of_its_groups(tmp_path) -> None:
    world, control = Alone(), Alone("control")
    world.derived = (control,)
    waits = []
    for group in (None, world, control):
        if group is not None:
            group.waiting = True
        with Heartbeat(tmp_path, 0, "here", group=world):
            wait_for(lambda: read_beats(tmp_path), 10, "beat")
            waits.append(read_beats(tmp_path)[0].waits)
        world.waiting = control.waiting = False
    assert waits == [False, True, True]
