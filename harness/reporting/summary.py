"""The last lines of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.text import metrics_suffix

if TYPE_CHECKING:
    from harness.lifecycle.result import Result


def summary(result: Result, run_dir: Path) -> str:
    """How the run ended, and where its files are."""
    steps = f"{result.env_steps:,} steps in {result.wall_seconds:.1f} s ({result.env_steps_per_second:,.0f} steps/s)"
    ranks = f"{result.ranks} rank{'s' if result.ranks > 1 else ''}"
    lines = []
    if result.status == "done":
        value = f"{result.eval_return_mean:.4g} ± {result.eval_return_std:.3g} over {result.eval_episodes} episodes"
        early = f" ({result.reason})" if result.reason else ""
        means = {name.removesuffix("_mean"): mean for name, mean in result.eval_metrics.items()}
        lines.append(f"done{early}: {value}{metrics_suffix(means)}, {steps}, {ranks}")
    else:
        lines.append(f"{result.status}: {result.reason}; {steps}, {ranks}")
        lines += [f"  | {line}" for line in result.last_lines]
    lines.append(f"files: {run_dir}")
    return "\n".join(lines)
