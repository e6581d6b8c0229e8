"""Two ranks learn from compressed gradients; `python -m tests.learning.compressed` tries every kind over seeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.compression_settings import COMPRESSION_KINDS
from harness.config import load_run_config
from harness.files import read_json
from tests.command import harness
from tests.learning import compressed
from tests.learning.compressed import LEAST, name, row, table
from tests.learning.test_results import record


def test_every_run_of_the_table_is_a_config() -> None:
    for preset in LEAST:
        for kind in COMPRESSION_KINDS:
            settings = load_run_config(preset, row(preset, kind).overrides).compression
            assert (settings.kind, settings.feeds_back) == (kind, kind != "none")


def test_a_row_has_reached_its_threshold_where_every_seed_has() -> None:
    made = {}
    for kind, values in {"int8": [475, 500, 500, 500, 480], "sign": [500, 474, 500, 500, 500], "top_k": [500]}.items():
        each = row("ppo-cartpole", kind)
        made[name("ppo-cartpole", kind)] = [record(each, 100 + seed, value) for seed, value in enumerate(values)]
    diverged = replace(record(row("ppo-cartpole", "bf16"), 100), value=None)
    made[name("ppo-cartpole", "bf16")] = [diverged] * 5
    verdicts = [line.split(" | ")[-1].removesuffix(" |") for line in table(made).splitlines()[2:6]]
    assert verdicts == ["yes", "**no**", "not judged: 1 of 5 seeds", "**no**"]


@pytest.mark.slow
@pytest.mark.learning
@pytest.mark.parametrize("kind", ["int8", "top_k", "powersgd"])
def test_digits_are_learned_by_two_ranks_that_feed_back_what_they_leave_out(kind: str, tmp_path: Path) -> None:
    command = row("supervised-digits", kind).command(seed=0)
    ran = harness(*command, "--output", "run", cwd=tmp_path, seconds=900)
    assert ran.code == 0, ran.err
    assert read_json(tmp_path / "run" / "result.json")["value"] >= compressed.LEAST["supervised-digits"]
