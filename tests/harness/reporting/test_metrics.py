from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from harness.reporting import open_metrics
from harness.reporting.metrics import Board
from tests.conftest import files_of_at_most


def records(run_dir) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_tensorboard_reads_the_same_series_as_the_lines(tmp_path):
    writer = open_metrics(tmp_path, rank=0)
    for update in range(1, 6):
        writer.log(update, {"train/loss": 1.0 / update, "train/kl": 0.5 * update}, env_steps=128 * update)
    writer.close()

    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert sorted(board.Tags()["scalars"]) == ["train/kl", "train/loss"]
    for tag in ("train/loss", "train/kl"):
        drawn = [(event.step, event.value) for event in board.Scalars(tag)]
        written = [(record["env_steps"], pytest.approx(record[tag], rel=1e-6)) for record in records(tmp_path)]
        assert drawn == written
    assert [record["update"] for record in records(tmp_path)] == [1, 2, 3, 4, 5]


def test_without_environment_steps_the_updates_are_the_axis(tmp_path):
    writer = open_metrics(tmp_path, rank=0)
    writer.log(7, {"accuracy": 0.5})
    writer.close()
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("accuracy")] == [7]
    assert records(tmp_path) == [{"update": 7, "accuracy": 0.5}]


def test_a_record_can_be_read_as_soon_as_it_is_logged(tmp_path):
    writer = open_metrics(tmp_path, rank=0)
    writer.log(1, {"loss": 2.0})
    assert records(tmp_path) == [{"update": 1, "loss": 2.0}]
    writer.close()


def test_numbers_that_are_not_finite_are_null_in_the_lines(tmp_path):
    writer = open_metrics(tmp_path, rank=0)
    writer.log(1, {"loss": math.nan, "kl": math.inf})
    writer.close()
    assert records(tmp_path) == [{"update": 1, "loss": None, "kl": None}]


def test_a_run_that_goes_on_adds_to_its_series(tmp_path):
    for update in (1, 2):
        writer = open_metrics(tmp_path, rank=0)
        writer.log(update, {"loss": 1.0})
        writer.close()
    assert [record["update"] for record in records(tmp_path)] == [1, 2]


def test_other_ranks_write_nothing_and_do_not_load_tensorboard(tmp_path):
    code = (
        "import sys; from harness.reporting import open_metrics; from pathlib import Path\n"
        f"writer = open_metrics(Path({str(tmp_path / 'run')!r}), rank=1)\n"
        "writer.log(1, {'loss': 1.0}); writer.close()\n"
        "assert not any(name.startswith('tensorboard') for name in sys.modules), 'loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    assert not (tmp_path / "run").exists()


def test_a_run_that_goes_on_from_a_checkpoint_cuts_what_came_after_it(tmp_path):
    writer = open_metrics(tmp_path, rank=0)
    for update in (1, 2, 3, 4):
        writer.log(update, {"loss": 1.0})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as torn:
        torn.write('{"update": 5, "lo')
    writer = open_metrics(tmp_path, rank=0, after_update=2)
    writer.log(3, {"loss": 2.0})
    writer.close()
    assert [(record["update"], record["loss"]) for record in records(tmp_path)] == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_tensorboard_is_left_out_where_nobody_wants_it(tmp_path):
    writer = open_metrics(tmp_path, rank=0, tensorboard=False)
    writer.log(1, {"loss": 1.0})
    writer.close()
    assert not (tmp_path / "tensorboard").exists() and len(records(tmp_path)) == 1


def test_what_a_full_disk_does_not_take_is_written_once_there_is_room(tmp_path, monkeypatch):
    monkeypatch.setattr(Board, "flush_seconds", 0.0)
    writer = open_metrics(tmp_path, rank=0)
    with files_of_at_most(1010):
        lines = [writer.log(update, {"loss": 1.0 / update}) for update in range(1, 300)]
        with pytest.raises(OSError):  # no checkpoint may be ahead of them
            writer.sync()
    assert len(list(filter(None, lines))) == 1, "told once"
    assert writer.log(300, {"loss": 0.5}) is None
    writer.close()
    assert [record["update"] for record in records(tmp_path)] == list(range(1, 301)), "each once, none torn"
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("loss")] == list(range(1, 301))


def test_a_disk_that_stays_full_does_not_end_the_run(tmp_path):
    writer = open_metrics(tmp_path, rank=0)
    with files_of_at_most(100):
        assert any(writer.log(update, {"loss": 1.0}) for update in range(10))
        writer.close()
