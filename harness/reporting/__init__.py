"""What people and the search see of a run. Any training script is a trial by `report` and `should_stop`."""

from harness.reporting.metrics import MetricsWriter, NoMetrics, open_metrics
from harness.reporting.phases import PhaseTimer
from harness.reporting.progress import Progress, Status, open_display, open_progress, read_progress
from harness.reporting.script import report, should_stop
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
