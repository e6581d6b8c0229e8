"""What people and the search see of a run. Any training script is a trial by `report` and `should_stop`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from harness.reporting.script import report, should_stop

if TYPE_CHECKING:
    from harness.reporting.metrics import MetricsWriter, NoMetrics, open_metrics
    from harness.reporting.phases import PhaseTimer
    from harness.reporting.progress import Progress, open_display, open_progress, read_progress
    from harness.reporting.status import Status
    from harness.reporting.trial import Reporter, Trial

__all__ = [
    "MetricsWriter",
    "NoMetrics",
    "PhaseTimer",
    "Progress",
    "Reporter",
    "Status",
    "Trial",
    "open_display",
    "open_metrics",
    "open_progress",
    "read_progress",
    "report",
    "should_stop",
]

HOMES = {
    "MetricsWriter": "metrics",
    "NoMetrics": "metrics",
    "PhaseTimer": "phases",
    "Progress": "progress",
    "Reporter": "trial",
    "Status": "status",
    "Trial": "trial",
    "open_display": "progress",
    "open_metrics": "metrics",
    "open_progress": "progress",
    "read_progress": "progress",
}


def __getattr__(name: str) -> Any:
    """All but the two functions of a script, imported when asked for: every rank of every trial waits for them."""
    if name not in HOMES:
        raise AttributeError(f"module 'harness.reporting' has no attribute {name!r}")
    return getattr(import_module(f"harness.reporting.{HOMES[name]}"), name)
