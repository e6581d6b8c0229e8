"""What a worker counts, and all of them as Prometheus reads it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

from harness.policy.protocol import STATUSES

EDGES = (50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 100e-3, 1.0)
"""Seconds: upper bounds of the latencies' buckets; the last one has no bound."""


class Counts:
    """Of a worker, from its start."""

    def __init__(self) -> None:
        self.requests = self.actions = self.batches = self.closed = self.slow = 0
        """`closed`: connections; `slow`: those of them that the worker ended."""
        self.refused = [0] * len(STATUSES)
        self.latencies, self.seconds = [0] * (len(EDGES) + 1), 0.0

    def answered(self, requests: int, seconds: float) -> None:
        """So many that were read together, in so long until the last was answered."""
        self.requests += requests
        self.latencies[bisect_left(EDGES, seconds)] += requests
        self.seconds += requests * seconds

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


def merged(each: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Sums."""
    total = dict(vars(Counts()))
    for counts in each:
        for name, value in total.items():
            found = counts.get(name, value)
            total[name] = [a + b for a, b in zip(value, found)] if isinstance(value, list) else value + found
    return total


def prometheus(
    total: dict[str, Any], connections: int, refused: int, workers: int, restarts: int, version: int, swaps: int
) -> str:
    """The text format, version 0.0.4. `refused`: connections that were never handed to a worker."""
    lines: list[str] = []

    def add(name: str, kind: str, about: str, *values: tuple[str, float]) -> None:
        lines.append(f"# HELP harness_{name} {about}")
        lines.append(f"# TYPE harness_{name} {kind}")
        lines.extend(f"harness_{name}{labels} {value:.10g}" for labels, value in values)

    add("requests_total", "counter", "Requests that were read whole and answered.", ("", total["requests"]))
    add("actions_total", "counter", "Observations that were decided.", ("", total["actions"]))
    add("batches_total", "counter", "Runs of the policy, each of all requests that waited.", ("", total["batches"]))
    statuses = [(f'{{status="{name}"}}', total["refused"][at]) for at, name in enumerate(STATUSES) if at]
    add("refused_total", "counter", "Requests that got no actions, by status.", *statuses)
    add("slow_connections_total", "counter", "Connections ended for being stuck or idle.", ("", total["slow"]))
    add("refused_connections_total", "counter", "Connections beyond the limit.", ("", refused))
    below, buckets = 0, []
    for edge, count in zip((*EDGES, None), total["latencies"]):
        below += count
        buckets.append((f'_bucket{{le="{"+Inf" if edge is None else edge}"}}', below))
    name = "latency_seconds"
    add(name, "histogram", "From a request's reading to its answer.", *buckets, ("_sum", total["seconds"]))
    lines.append(f"harness_{name}_count {below}")
    add("connections", "gauge", "Open connections.", ("", connections))
    add("workers", "gauge", "Workers that serve.", ("", workers))
    add("worker_restarts_total", "counter", "Workers that died and were replaced.", ("", restarts))
    add("policy_version", "gauge", "Version of the policy, from 1.", ("", version))
    add("policy_swaps_total", "counter", "Policies that took the place of another.", ("", swaps))
    return "\n".join(lines) + "\n"
