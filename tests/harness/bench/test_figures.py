"""What is made of measured times: medians, spreads, bandwidths, shares, floors, speed-ups."""

from __future__ import annotations

import math
import statistics
import subprocess

import pytest

from harness.bench.allreduce import WAYS, bus_bandwidth, row, sizes_up_to
from harness.bench.certificate import Figure, certify
from harness.bench.openmpi import allreduce_algorithm
from harness.bench.scaling import rates, stopping_at, times_to, widened
from harness.bench.throughput import Throughput
from harness.config import load_run_config
from tests.command import ROOT


def test_a_figure_is_the_median_and_the_outer_tenths():
    figure = Figure.of([5.0, 1.0, 2.0, 4.0, 3.0, 8.0, 7.0, 6.0, 9.0, 10.0, 11.0])
    tenths = statistics.quantiles(range(1, 12), n=10, method="inclusive")
    assert (figure.low, figure.median, figure.high, figure.count) == (tenths[0], 6.0, tenths[-1], 11)


def test_bus_bandwidth_is_what_each_link_of_a_ring_carries():
    """In a ring each rank sends N - 1 chunks of 1/N of the bytes in either half: that over the time is its link's."""
    for ranks in (2, 3, 8):
        size, seconds = 3 << 20, 0.25
        sent = 2 * (ranks - 1) * (size / ranks)
        assert bus_bandwidth(size, seconds, ranks) == pytest.approx(sent / seconds / 1e9)


def test_sizes_go_from_4_kb_to_256_mb_in_fours():
    assert [size.bit_length() for size in sizes_up_to(1 << 40)] == [13, 15, 17, 19, 21, 23, 25, 27, 29]
    assert sizes_up_to(100_000) == [4096, 16384, 65536]


def test_the_calls_of_all_launches_count():
    launch = {"device": "cpu", "mpi": "Open MPI v4.1.8", "cycle_milliseconds": "0.1", "algorithms": {"4096": "ring"}}
    found = row(WAYS[3], 4, 4096, [{**launch, "times": {"4096": [1e-5, 9e-5]}}, {**launch, "times": {"4096": [2e-5]}}])
    assert (found.microseconds.median, found.microseconds.count) == (pytest.approx(20.0), 3)
    assert found.bus_bandwidth == pytest.approx(4096 / 20e-6 * 1.5 / 1e9)
    assert found.algorithm == "ring, cycle 0.1 ms"


@pytest.mark.parametrize(
    "env, library, ranks, size, algorithm",
    [
        ({}, "Open MPI v4.1.8", 2, 20480, "ring"),
        ({}, "Open MPI v4.1.8", 2, 65536, "segmented ring"),
        ({}, "Open MPI v4.1.8", 2, 262144, "Rabenseifner"),
        ({}, "Open MPI v4.1.8", 3, 8192, "recursive doubling"),
        ({}, "Open MPI v4.1.8", 8, 4096, "recursive doubling"),
        ({}, "Open MPI v4.1.8", 16, 4096, "Rabenseifner"),
        ({}, "Open MPI v4.1.8", 32, 4096, "Rabenseifner"),
        ({}, "Open MPI v4.1.8", 64, 65536, "recursive doubling"),
        ({}, "Open MPI v4.1.8", 65, 4096, "Open MPI v4.1.8's choice"),
        ({}, "Open MPI v5.0.1", 2, 4096, "Open MPI v5.0.1's choice"),
        ({"OMPI_MCA_coll_han_priority": "90"}, "Open MPI v4.1.8", 2, 4096, "Open MPI v4.1.8's choice"),
        ({"OMPI_MCA_coll_tuned_allreduce_algorithm": "4"}, "Open MPI v4.1.8", 2, 4096, "Open MPI v4.1.8's choice"),
        (
            {"OMPI_MCA_coll_tuned_use_dynamic_rules": "1", "OMPI_MCA_coll_tuned_allreduce_algorithm": "4"},
            *("Open MPI v5.0.1", 2, 4096, "ring, forced"),
        ),
        (
            {
                "OMPI_MCA_coll_tuned_use_dynamic_rules": "1",
                "OMPI_MCA_coll_tuned_dynamic_rules_filename": "/somewhere/between.rules",
            },
            *("Open MPI v4.1.8", 3, 4096, "as between.rules say"),
        ),
        ({"OMPI_MCA_coll_libnbc_iallreduce_algorithm": "1"}, "Open MPI v4.1.8", 2, 4096, "ring"),
        ({}, None, 2, 4096, None),
    ],
)
def test_the_algorithm_is_named_where_it_is_known(env, library, ranks, size, algorithm):
    assert allreduce_algorithm(library, env, ranks, size) == algorithm


def repeat(seconds: float, step: float | None = 1e-5) -> dict:
    """Two ranks' worth: 4 environments, 100 steps each, 10 gradient steps."""
    phases = {"act": seconds / 4, "environment": seconds / 4, "gradient": seconds / 2}
    library = None if step is None else 2 * step
    floor = {"minibatch": 1e-4, "step": step, "library_step": library}
    return {"seconds": seconds, "env_steps": 400, "gradient_steps": 10, "phases": phases, "floor": floor}


def found_by_ranks(*repeats: dict, ranks: int = 2, **config) -> dict:
    config = {"algorithm": {"minibatch_size": 64}, "env": {"count": 4}, **config}
    return {
        "line": "a run",
        "notices": [],
        "ranks": ranks,
        "environments": 4,
        "iterations": 5,
        "config": config,
        "repeats": repeats,
    }


def test_throughput_is_steps_over_seconds_and_the_shares_of_the_phases_add_up_to_1():
    found = Throughput.of(found_by_ranks(repeat(0.5), repeat(0.4), repeat(0.2)))
    assert found.env_steps_per_second.median == pytest.approx(1000)
    assert found.gradient_steps_per_second.median == pytest.approx(25)
    assert found.iteration_milliseconds.median == pytest.approx(80)
    assert math.fsum(phase.share.median for phase in found.phases) == pytest.approx(1)
    assert found.phases[0].phase == "gradient" and found.phases[0].milliseconds.median == pytest.approx(40)


def test_the_floor_is_products_of_all_gradient_steps_and_bare_steps_of_all_environments_together():
    found = Throughput.of(found_by_ranks(repeat(0.5), repeat(0.4), repeat(0.2)))
    assert found.floor is not None and found.floor.products is not None and found.floor.environment is not None
    assert found.floor.products.median == pytest.approx(1e3 * 10 * 1e-4 / 5)
    assert found.floor.environment.median == pytest.approx(1e3 * 100 * 1e-5 / 5)
    assert found.floor.total.median == pytest.approx(0.4)
    assert found.floor.ratio.median == pytest.approx(0.4 / 0.002)
    assert found.floor.environment_ratio is not None
    assert found.floor.environment_ratio.median == pytest.approx((0.4 / 4) / (100 * 2e-5))


def test_a_floor_of_products_alone_where_there_is_no_environment():
    found = Throughput.of({**found_by_ranks(repeat(0.5, step=None)), "environments": None})
    assert found.floor is not None and found.floor.environment is None and found.floor.environment_ratio is None
    assert found.floor.total == found.floor.products


def test_scaling_compares_with_the_fewest_ranks():
    launches = {
        2: [found_by_ranks(repeat(0.4))],
        8: [found_by_ranks(repeat(0.2), ranks=8), found_by_ranks(repeat(0.2))],
    }
    fewest, most = rates(launches)
    assert (fewest.speed_up, fewest.efficiency) == (1, 1)
    assert most.speed_up == pytest.approx(2) and most.efficiency == pytest.approx(0.5)
    assert most.steps_per_second.count == 2


def test_a_time_to_a_return_is_told_only_where_every_run_came_so_far():
    run = {"status": "done", "reason": None, "best_return_mean": 450.0, "wall_seconds": 8.0, "env_steps": 1000}
    found = times_to(
        {1: [run, run], 2: [{**run, "wall_seconds": 4.0}] * 2, 4: [run, {**run, "best_return_mean": 9}]}, 400
    )
    assert [time.reached for time in found] == [2, 2, 1]
    assert found[1].speed_up == pytest.approx(2)
    assert found[2].seconds is None and found[2].speed_up is None


def test_weak_scaling_holds_what_a_rank_does():
    config = load_run_config("ppo-cartpole")
    wide = widened(config, 3)
    assert config.env is not None and wide.env is not None and config.run.steps is not None
    assert wide.env.count == 3 * config.env.count and wide.run.steps == 3 * config.run.steps
    assert wide.algorithm.minibatch_size == 3 * config.algorithm.minibatch_size  # type: ignore[attr-defined]
    assert wide.algorithm.rollout_steps == config.algorithm.rollout_steps  # type: ignore[attr-defined]


def test_a_run_until_a_return_is_the_same_run_otherwise():
    config = load_run_config("ppo-cartpole", ["evaluation.count=20"])
    until = stopping_at(config, 450.0, seed=3).to_table()
    assert until["evaluation"].pop("stop_at") == 450.0 and until.pop("seed") == 3
    expected = config.to_table()
    expected.pop("seed")
    expected["evaluation"]["final_episodes"] = 1
    assert until == expected


def test_a_certificate_tells_the_command_and_the_machine(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["somewhere/harness", "bench", "allreduce", "--json", "my file.json"])
    certificate = certify()
    assert certificate.command == "python -m harness bench allreduce --json 'my file.json'"
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert (certificate.commit or "").removesuffix("-dirty") == head
    assert certificate.cores >= 1 and certificate.cpu and certificate.load >= 0
    assert certificate.versions["torch"] and certificate.date[:2] == "20"
