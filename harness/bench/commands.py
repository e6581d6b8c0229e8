"""What `python -m harness bench` does: measure, show, write."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from typing import Any

from harness.bench import allreduce, scaling, throughput
from harness.bench.arguments import check, rank_counts, size_in_bytes
from harness.bench.certificate import Certificate, certify
from harness.bench.launch import Failed, Places, Stopped
from harness.bench.screen import Screen, shown
from harness.cluster.place import detect_place
from harness.config import load_run_config
from harness.errors import BadInput
from harness.files import write_json
from harness.run.checks import check as check_run


def main(arguments: argparse.Namespace) -> int:
    """The exit code: 1 where ranks died, nothing could be measured, or a signal asked to stop."""
    check(arguments)
    try:
        return BENCHES[arguments.bench](arguments)
    except (Failed, Stopped) as error:
        if detect_place(os.environ).rank == 0:
            print(f"harness: {error}", file=sys.stderr, flush=True)
        return 1


def bench_allreduce(arguments: argparse.Namespace) -> int:
    if arguments.launcher == "horovodrun-gloo":
        raise BadInput("--launcher must be horovodrun or mpirun here: the row of Horovod on Gloo takes its own")
    counts = rank_counts(arguments.ranks or "2", least=2)
    sizes = allreduce.sizes_up_to(size_in_bytes(arguments.max_size, allreduce.SMALLEST))
    places, certificate = Places.find(counts, arguments.hostfile, arguments.launcher), certify()
    with Screen() as screen:
        rows, left_out = allreduce.measure(places, counts, sizes, arguments.repeats, arguments.seconds, screen)
        allreduce.show(rows, left_out, certificate, screen)
        if arguments.json is not None:
            plotted = arguments.json.with_suffix(".html")
            write(arguments, certificate, allreduce.table_of(rows, left_out))
            allreduce.plot(rows, certificate, plotted)
            screen.say(f"files: {arguments.json}, {plotted}")
    return 0 if rows else 1


def bench_throughput(arguments: argparse.Namespace) -> int:
    config = load_run_config(arguments.config, arguments.overrides)
    certificate = certify()
    with Screen() as screen:
        if arguments.ranks is None:
            for name in ("hostfile", "launcher"):
                if getattr(arguments, name) is not None:
                    raise BadInput(f"--{name} is for --ranks N, which is missing")
            here = throughput.measure_here(config, arguments.repeats, arguments.seconds)
            if here is None:  # rank 0 tells it
                return 0
            found = [here]
        else:
            counts = rank_counts(arguments.ranks, least=1)
            places = Places.find(counts, arguments.hostfile, arguments.launcher)
            for ranks in counts:
                check_run(config, ranks)
            found = []
            for ranks in counts:
                screen.doing(f"{config.run.name}, {shown(ranks)}")
                measured = throughput.measure_on_ranks(places, ranks, config, arguments.repeats, arguments.seconds)
                found.append(throughput.Throughput.of(measured))
        for each in found:
            throughput.show(each, certificate, screen)
        if arguments.json is not None:
            write(arguments, certificate, throughput.table_of(found))
            screen.say(f"files: {arguments.json}")
    return 0


def bench_scaling(arguments: argparse.Namespace) -> int:
    config = load_run_config(arguments.config, arguments.overrides)
    counts = rank_counts(arguments.ranks or "1,2", least=1)
    places, certificate = Places.find(counts, arguments.hostfile, arguments.launcher), certify()
    with Screen() as screen:
        found = scaling.measure(places, counts, config, arguments.until, arguments.repeats, arguments.seconds, screen)
        scaling.show(found, config.run.name, arguments.until, certificate, screen)
        if arguments.json is not None:
            write(arguments, certificate, scaling.table_of(found))
            screen.say(f"files: {arguments.json}")
    return 0


BENCHES = {"allreduce": bench_allreduce, "throughput": bench_throughput, "scaling": bench_scaling}


def write(arguments: argparse.Namespace, certificate: Certificate, table: dict[str, Any]) -> None:
    write_json(arguments.json, {"bench": arguments.bench, "certificate": asdict(certificate), **table})
