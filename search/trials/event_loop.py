"""The event loop of a search: start, watch, finish, for as many runs at once as there are slots.

It runs the trials of a study (search/driver.py), then the seeds of its confirmation (search/trials/confirmation.py).
"""

from __future__ import annotations

import select
from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

from harness.launching import Job
from search.display import Row
from search.launchers.lease import Lease
from search.trials.context import StudyContext
from search.trials.outcome import End

POLL_SECONDS = 0.1


class Running(Protocol):
    """What the loop watches: a trial, or one seed of a confirmation."""

    @property
    def lease(self) -> Lease: ...

    @property
    def job(self) -> Job: ...

    def ask_to_stop(self) -> None: ...

    def end_now(self) -> End: ...

    def seconds_trained(self) -> float: ...


R = TypeVar("R", bound=Running)


class EventLoop(ABC, Generic[R]):
    def __init__(self, context: StudyContext) -> None:
        self.context = context
        self.ranks = context.config.trial.ranks
        self.running: list[R] = []

    def run_all(self) -> None:
        """Until nothing runs and nothing more is to be started."""
        while self.running or self.wants_more():
            self.obey()
            self.look_outside()
            while self.context.slots.free >= self.ranks and self.wants_more():
                self.start_next()
            self.context.runner.launcher.refresh([run.job for run in self.running])
            for run in list(self.running):
                self.watch(run)
            for notice in self.context.runner.launcher.notices():
                self.context.display.event(notice)
            self.context.display.rows([self.row(run) for run in self.running], self.summary())
            if not (self.context.slots.free >= self.ranks and self.wants_more()):
                self.wait()

    def wait(self) -> None:
        """Until something that runs has ended, at most until it is time to look at reports and requests again."""
        ends = [descriptor for run in self.running if (descriptor := run.job.descriptor()) is not None]
        select.select(ends, [], [], POLL_SECONDS)

    @property
    def ending(self) -> bool:
        """Whether nothing more is to be started, and what runs is to stop."""
        return self.context.stop.count > 0

    def obey(self) -> None:
        """Asks what runs to stop once there is a reason to; ends it when asked a second time."""
        if self.ending:
            for run in list(self.running):
                run.ask_to_stop()
                if self.context.stop.count > 1:
                    self.finish(run, run.end_now())

    def release(self, run: R) -> None:
        """Its job is over: its slots are free."""
        self.running.remove(run)
        self.context.slots.pace.trained += run.lease.size * run.seconds_trained()
        self.context.slots.give_back(run.lease)

    @abstractmethod
    def wants_more(self) -> bool:
        """Whether something is to be started as soon as there are slots."""

    @abstractmethod
    def start_next(self) -> None:
        """Starts the next one; called while there are slots for it."""

    @abstractmethod
    def watch(self, run: R) -> None:
        """Reads what it reported, and finishes it where it is over."""

    @abstractmethod
    def finish(self, run: R, end: End) -> None:
        """It is over: records how it ended, and releases it."""

    @abstractmethod
    def row(self, run: R) -> Row:
        """How the display shows it."""

    @abstractmethod
    def summary(self) -> str:
        """The line below the rows."""

    def look_outside(self) -> None:
        """Obeys what others than this driver have changed."""
