"""The best configuration once more, with seeds that the search never used: what is announced is the mean ± std of that.

The search's own best value is the luckiest of many; it flatters.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

from optuna.trial import FrozenTrial

from harness.errors import BadInput
from harness.files import read_json, write_json
from harness.launching import Job
from search.display import Row, number
from search.launchers.lease import Lease
from search.study.confirmed import CONFIRMATION, Confirmation
from search.study.objective import confirm_seeds
from search.trial_dir import TrialDir, open_trial_dir
from search.trials.context import StudyContext
from search.trials.event_loop import EventLoop
from search.trials.outcome import End
from search.trials.retention import tidy_run
from search.trials.seed_run import SeedRun


def confirm(context: StudyContext, best: FrozenTrial) -> Confirmation | None:
    """Trains and evaluates the best trial's parameters again; None where that is off or was stopped on request."""
    config = context.config
    if config.confirm.seeds == 0:
        return None
    used = {seed for trial in context.study.get_trials(deepcopy=False) for seed in trial.user_attrs.get("seeds", [])}
    seeds = list(confirm_seeds(config.study.seed, config.confirm.seeds, used | set(context.objective.seeds)))
    settings = best.user_attrs.get("settings") or context.space.settings(best.params)
    try:
        context.space.check_stored(best.params)
        context.drawer.check(settings)
        described = context.runner.task.describe(settings, 0)
    except BadInput as error:  # of a trial that others have added
        context.display.event(f"trial {best.number}, the best, cannot be confirmed: {error}")
        return None
    question: dict[str, Any] = {
        "trial": best.number,
        "seeds": seeds,
        "episodes": config.confirm.episodes,
        "trained": hashlib.sha256(f"{config.trial.ranks} ranks\n{described}".encode()).hexdigest()[:16],
    }
    before = context.study.user_attrs.get(CONFIRMATION)
    if before and not before["failures"] and question.items() <= before.items():
        context.display.event(f"trial {best.number} was confirmed before: it is still the best")
        return Confirmation(**before)
    shown = ", ".join(map(str, seeds))
    context.display.event(f"confirming trial {best.number} with unseen seeds: {shown}")
    ends = ConfirmationRuns(context, own_directory(context, question), seeds, settings).run()
    if ends is None:
        return None
    values = [end.value for end in ends if end.status == "done" and end.value is not None]
    confirmation = Confirmation(
        **question,
        values=values,
        mean=statistics.fmean(values) if values else None,
        std=(statistics.stdev(values) if len(values) > 1 else 0.0) if values else None,
        failures=[f"seed {seed}: {end.reason}" for seed, end in zip(seeds, ends) if end.status != "done"],
    )
    context.study.set_user_attr(CONFIRMATION, asdict(confirmation))
    write_json(context.directory.confirm / "confirmation.json", asdict(confirmation))
    return confirmation


def own_directory(context: StudyContext, question: dict[str, Any]) -> TrialDir:
    """`confirm/`, resumed where it holds the same confirmation; another one in it is kept under another name."""
    path = context.directory.confirm
    asked = read_json(path / "question.json")
    if path.exists() and (asked != question or context.directory.copied):
        old = open_trial_dir(path, parallel=True)
        # Of a driver that was killed: what still runs would write into the new one. A copy's jobs are the original's.
        for index in () if context.directory.copied else old.jobs:
            context.runner.find(old, index).end_now("another confirmation begins")
        kept, copy = f"confirm-of-{(asked or {}).get('trial', 'unknown')}", 1
        while path.with_name(f"{kept}-{copy}").exists():
            copy += 1
        path.rename(path.with_name(f"{kept}-{copy}"))
    write_json(path / "question.json", question)
    directory = open_trial_dir(path, parallel=True)
    directory.take_back_verdict()  # of a driver that was asked to stop
    return directory


@dataclass(frozen=True)
class ConfirmationRun:
    """One seed of the confirmation."""

    index: int
    run: SeedRun
    lease: Lease

    @property
    def job(self) -> Job:
        return self.run.job

    def seconds_trained(self) -> float:
        result = self.run.directory.result(self.index)
        return 0.0 if result is None else result.seconds

    def ask_to_stop(self) -> None:
        self.run.ask_to_stop("stopped")

    def end_now(self) -> End:
        return self.run.end_now("ended with the driver")


class ConfirmationRuns(EventLoop[ConfirmationRun]):
    """One configuration with several seeds, as many at once as there are slots."""

    def __init__(self, context: StudyContext, directory: TrialDir, seeds: list[int], settings: dict[str, Any]) -> None:
        super().__init__(context)
        self.directory = directory
        self.seeds = seeds
        self.settings = settings
        self.waiting = list(range(len(seeds)))
        self.ends: dict[int, End] = {}
        self.began = time.time()

    def run(self) -> list[End] | None:
        """How each seed ended, in their order; None where the driver was asked to stop."""
        self.recover()
        self.run_all()
        if self.waiting or any(end.status == "stopped" for end in self.ends.values()):
            return None
        return [self.ends[index] for index in range(len(self.seeds))]

    def recover(self) -> None:
        """Runs that an earlier driver started: what is done counts, what died is started again."""
        for index, job in self.directory.jobs.items():
            run = self.context.runner.find(self.directory, index)
            end = run.poll()
            if end is None:
                lease = Lease.from_json(job["lease"])
                self.context.slots.claim(lease)
                self.running.append(ConfirmationRun(index, run, lease))
            elif end.status == "done":
                self.ends[index] = end
            else:
                continue
            self.waiting.remove(index)

    def wants_more(self) -> bool:
        return bool(self.waiting) and not self.ending

    def start_next(self) -> None:
        lease = self.context.slots.lease(self.ranks)
        assert lease is not None
        index = self.waiting.pop(0)
        episodes = self.context.config.confirm.episodes
        run = self.context.runner.start(self.directory, index, self.seeds[index], self.settings, lease, episodes)
        self.running.append(ConfirmationRun(index, run, lease))

    def watch(self, run: ConfirmationRun) -> None:
        end = run.run.poll(self.read_reports)
        if end is not None:
            self.finish(run, end)

    def read_reports(self) -> None:
        reported = {report.seed for report in self.directory.new_reports()}
        for run in self.running:
            if run.index in reported:
                run.run.heard()

    def finish(self, run: ConfirmationRun, end: End) -> None:
        self.release(run)
        tidy_run(self.directory.seed_path(run.index), self.context.config.trial.keep)
        self.ends[run.index] = end
        outcome = f"gave {number(end.value)}" if end.status == "done" else f"{end.status}: {end.reason}"
        self.context.display.event(f"seed {self.seeds[run.index]} {outcome}")

    def row(self, run: ConfirmationRun) -> Row:
        last = self.directory.last.get(run.index)
        step, value = (None, None) if last is None else (last.step, last.value)
        state = "starting" if step is None else "running"
        return Row(f"seed {self.seeds[run.index]}", state, "confirmation", step, value, time.time() - self.began)

    def summary(self) -> str:
        return "confirmation"
