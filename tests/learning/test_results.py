"""The table of `make learn`: what a row amounts to, its figures, and what is kept of runs made on several machines."""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from tests.command import ROOT, environment
from tests.learning import same_speed
from tests.learning.figures import bootstrap, interquartile_mean
from tests.learning.results import Standing, load, origin, save
from tests.learning.rows import ROWS, Row, seeds_of
from tests.learning.runs import Ledger, Record, Running

CARTPOLE, PENDULUM = ROWS["ppo-cartpole"], ROWS["ppo-pendulum"]
CURVE = [(1000, 20.0), (2000, 30.0)]


def record(row: Row, seed: int, value: float | None = 500.0, **more: object) -> Record:
    ended = Record(
        preset=row.preset,
        settings=row.settings(),
        ranks=row.ranks,
        seed=seed,
        value=value,
        std=None if value is None else 0.0,
        episodes=100,
        env_steps=row.steps,
        reason="non-finite loss" if value is None else None,
        wall_seconds=10.0,
        cpu_seconds=10.0,
        interrupted=0,
        command="python -m harness train",
        commit="0123456789ab",
        cpu="2 cores",
        date="2026-01-02 03:04",
        versions={"python": "3.11.7"},
        curve=CURVE,
    )
    return replace(ended, **more)  # type: ignore[arg-type]


def records(row: Row, *values: float | None) -> list[Record]:
    return [record(row, 100 + number, value) for number, value in enumerate(values)]


VERDICTS = {
    "all of 500": (CARTPOLE, [500, 500, 480, 490, 490], "yes"),
    "the mean of 500 too low": (CARTPOLE, [500, 480, 480, 490, 490], "**no**"),
    "one seed of 500 too low": (CARTPOLE, [500, 500, 500, 500, 470], "**no**"),
    "the reference less its deviation": (PENDULUM, [-276, -276, -276, -276, -276], "yes"),
    "a mean below it": (PENDULUM, [-276, -276, -276, -276, -277], "**no**"),
    "a seed far below and the mean above": (PENDULUM, [-150, -150, -150, -150, -500], "yes"),
    "a seed that diverged": (PENDULUM, [-150, -150, -150, -150, None], "**no**"),
    "what was reached again, below that": (ROWS["dqn-mountaincar"], [-117, -117, -118, -118, -117.5], "yes"),
    "four seeds": (PENDULUM, [-150, -150, -150, -150], "not judged: 4 of 5 seeds"),
    "a row that is not judged": (replace(PENDULUM, judged=False), [-500] * 5, ""),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_a_row_holds_where_its_seeds_reach_what_was_published(case: str) -> None:
    row, values, verdict = VERDICTS[case]
    assert Standing(row, records(row, *values)).verdict() == verdict


def test_a_row_does_not_hold_by_more_steps_or_another_preset() -> None:
    longer = replace(record(PENDULUM, 104, -150), env_steps=PENDULUM.steps + 1)
    assert Standing(PENDULUM, [*records(PENDULUM, *[-150] * 4), longer]).verdict() == "**no**"
    other = replace(record(PENDULUM, 104, -150), settings="another")
    assert Standing(PENDULUM, [*records(PENDULUM, *[-150] * 4), other]).verdict() == "the preset has changed since"


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 11])
def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    middle = sorted(values.tolist())[count // 4 : count - count // 4]
    assert float(interquartile_mean(values)) == pytest.approx(sum(middle) / len(middle))


@pytest.mark.parametrize("statistic", [lambda values: values.mean(-1), interquartile_mean])
def test_the_interval_is_that_of_every_possible_resample(statistic) -> None:
    values = np.array([3.0, -1.0, 4.2, 1.3, 0.2])
    every = np.sort(statistic(values[np.array(list(itertools.product(range(5), repeat=5)))]))
    exact = every[int(0.025 * len(every))], every[int(0.975 * len(every))]
    assert bootstrap(values, statistic) == pytest.approx(exact, abs=0.15)


def test_seeds_are_drawn_with_what_belongs_to_them() -> None:
    """Twice as many steps with two ranks, seed for seed, are a ratio of 2 without any doubt."""
    steps = np.array([[100, 200], [5000, 10000], [700, 1400]])
    assert bootstrap(steps, same_speed.ratio) == pytest.approx((2.0, 2.0))


def test_seeds_are_a_number_or_a_list() -> None:
    assert seeds_of("3") == [100, 101, 102] and seeds_of("100,104") == [100, 104]
    for wrong in ("0", "x", "100,", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="how many, at least 1, or which"):
            seeds_of(wrong)


def test_a_seed_made_elsewhere_joins_those_that_stand(tmp_path: Path) -> None:
    save(tmp_path, PENDULUM, records(PENDULUM, -1, -2, -3, -4))
    save(tmp_path, PENDULUM, [record(PENDULUM, 104, -5)])
    save(tmp_path, PENDULUM, [record(PENDULUM, 102, -30)])
    standing = load(tmp_path)[PENDULUM.preset]
    assert [each.seed for each in standing] == [100, 101, 102, 103, 104]
    assert [each.value for each in standing] == [-1, -2, -30, -4, -5], "what was made here counts"


def test_runs_of_a_changed_preset_are_replaced(tmp_path: Path) -> None:
    old = [replace(each, settings="another") for each in records(PENDULUM, -1, -2, -3)]
    save(tmp_path, PENDULUM, [record(PENDULUM, 100, -10)])
    kept = json.loads((tmp_path / "RESULTS.json").read_text())
    kept[PENDULUM.preset] = [{**asdict(each), "a later version's": 1} for each in old]
    (tmp_path / "RESULTS.json").write_text(json.dumps(kept))
    save(tmp_path, PENDULUM, [])
    assert len(load(tmp_path)[PENDULUM.preset]) == 3, "they stand until there are others"
    save(tmp_path, PENDULUM, [record(PENDULUM, 101, -20)])
    assert [(each.seed, each.value) for each in load(tmp_path)[PENDULUM.preset]] == [(101, -20)]


def test_a_picture_is_drawn_again_where_no_curve_is_missing(tmp_path: Path) -> None:
    picture = tmp_path / "curves" / "ppo-pendulum.svg"
    save(tmp_path, PENDULUM, records(PENDULUM, -1, -2, -3))
    assert "3 seeds" in picture.read_text()
    save(tmp_path, PENDULUM, [record(PENDULUM, 103)])
    assert "3 seeds" in picture.read_text(), "the curves of the others are elsewhere"
    save(tmp_path, PENDULUM, records(PENDULUM, -1, -2, -3, -4))
    assert "4 seeds" in picture.read_text()


def test_a_run_is_kept_with_the_backend_that_it_took(tmp_path: Path) -> None:
    short = replace(CARTPOLE, overrides=("run.steps=512", "evaluation.count=1", "evaluation.final_episodes=3"))
    run = Running.start(short, 100, tmp_path)
    run.process.wait()
    made = run.record(1.0, 0)
    assert made is not None and made.backend == "native" and made.value is not None and made.curve
    assert made.versions["numpy"] == np.__version__
    line = origin([made, replace(made, backend="envpool"), replace(made, backend="")])
    assert ", environments by native, envpool; python" in line
    assert "environments by" not in origin([record(PENDULUM, 100)]), "what was kept before does not tell"


def learn(folder: Path, *arguments: str, module: str = "tests.learning") -> str:
    folders = ["--runs", str(folder / "runs"), "--output", str(folder)]
    command = [sys.executable, "-m", module, *folders, "--minutes", "0", *arguments]  # what is wanted is not begun
    ran = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_seeds_that_stand_are_not_run_again_on_another_machine(tmp_path: Path) -> None:
    save(tmp_path, PENDULUM, records(PENDULUM, -1, -2, -3))
    Ledger(tmp_path / "runs").add(record(PENDULUM, 103, -4))
    printed = learn(tmp_path, "--rows", "ppo-pendulum", "--seeds", "4")
    assert printed.startswith("0 runs of 1 rows to make, 4 there already")
    assert [each.seed for each in load(tmp_path)[PENDULUM.preset]] == [100, 101, 102, 103]


def test_compared_seeds_that_stand_are_not_run_again_either(tmp_path: Path) -> None:
    one, two = same_speed.rows("ppo-cartpole")
    ledger, later = Ledger(tmp_path / "elsewhere"), Ledger(tmp_path / "runs")
    for seed in (100, 101, 102):
        ledger.add(record(one, seed))
        (ledger if seed < 102 else later).add(record(two, seed))
    same_speed.save(tmp_path, ["ppo-cartpole"], ledger)
    assert "| ppo-cartpole | 2 |" in (tmp_path / "SAME_SPEED.md").read_text()
    learn(tmp_path, "--presets", "ppo-cartpole", "--seeds", "3", module="tests.learning.same_speed")
    assert "| ppo-cartpole | 3 |" in (tmp_path / "SAME_SPEED.md").read_text(), "each rank count made elsewhere"
