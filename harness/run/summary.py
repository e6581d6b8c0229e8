"""What a run says of itself: its first line, its resolved config, its status, its result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.lifecycle.result import Result, git_commit, versions
from harness.reporting import Status

if TYPE_CHECKING:
    from harness.run.loop import Run
    from harness.schema import RunConfig


KEEPS = ("replicas_equal", "lockstep", "same_experiment")
"""What a synchronizer declares."""


def first_line(run: Run) -> str:
    """The run in a line: its ranks, their path and why, device, threads, precision."""
    config, world, threads = run.config, run.world, torch.get_num_threads()
    size = world.place.size
    ranks = f"{size} rank{'s' if size > 1 else ''} on {', '.join(run.hosts)}"
    sync = f"sync {run.communicator.transport} ({world.reason})"
    if not run.synchronizer.same_experiment:
        sync += ", which makes N ranks another experiment than one"
    if not run.synchronizer.replicas_equal:
        sync += ", each with weights of its own between averages"
    share = f"{threads} thread{'s' if threads > 1 else ''} a rank"
    return f"{config.run.name}: {ranks}, {sync}, {world.device}, {share}, {config.precision.kind}"


def resolved(run: Run) -> RunConfig:
    """The config with all that `auto` came to be, so that a repeat takes the same."""
    config = run.config
    compiled, products = run.algorithm.compiled, config.compile.products
    if compiled is not None and products == "auto":
        products = compiled.products
    mode = run.algorithm.compile_mode
    changes: dict[str, object] = {
        "run": config.run.model_copy(update={"threads": torch.get_num_threads()}),
        "compile": config.compile.model_copy(update={"mode": mode, "products": products}),
    }
    if run.communicator.size > 1:
        changes["sync"] = config.sync.model_copy(update={"path": run.communicator.transport})
    if config.env is not None and run.environments is not None:
        changes["env"] = run.environments.settings
    return config.model_copy(update=changes)


def status(run: Run) -> Status:
    """One look at a run that goes on."""
    counters, evaluation = run.counters, run.evaluations.latest
    return Status(
        env_steps=counters.env_steps,
        total_steps=run.total_steps,
        env_steps_per_second=counters.env_steps_per_second,
        seconds=counters.seconds,
        ranks=run.communicator.size,
        sync_path=run.communicator.transport,
        eta_seconds=counters.seconds * (run.total_steps - counters.env_steps) / counters.env_steps,
        return_mean=run.return_mean,
        eval_mean=None if evaluation is None else evaluation.mean,
        best=counters.best,
        phase_shares=run.phases.shares(),
    )


def result(run: Run, status: str, reason: str | None, value: float | None = None, divergence: bool = False) -> Result:
    """How the run ended, or would if it did now."""
    counters, evaluation, trial = run.counters, run.evaluations.latest, run.reporter.trial
    return Result(
        status=status,
        reason=reason,
        value=value,
        attempt=trial.attempt if trial is not None else 1,
        hosts=run.hosts,
        env_steps=counters.env_steps,
        gradient_steps=counters.gradient_steps,
        wall_seconds=counters.seconds,
        env_steps_per_second=counters.env_steps_per_second,
        ranks=run.communicator.size,
        sync_path=run.communicator.transport,
        sync_keeps={name: getattr(run.synchronizer, name) for name in KEEPS},
        sync_reason=run.world.reason,
        eval_return_mean=None if evaluation is None else evaluation.mean,
        eval_return_std=None if evaluation is None else evaluation.std,
        eval_episodes=0 if evaluation is None else len(evaluation.returns),
        eval_metrics=run.evaluations.final_metrics,
        best_return_mean=counters.best,
        seed=run.config.seed,
        divergence=divergence,
        versions=versions(),
        git_commit=git_commit(),
    )
