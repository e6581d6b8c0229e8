"""The errors that the commands know: what each one means for the run and for its exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.run.stopping import StopReason


class BadInput(Exception):
    """A setting, file or argument that cannot be used: one line that names it, its value and what it may be. Exit
    code 2."""


class Diverged(Exception):
    """A non-finite loss or gradient, agreed by all ranks: an outcome of these settings, not a fault."""


class RanksDisagree(Exception):
    """Something that must be equal on all ranks is not (parameters, a decision): the run cannot be trusted further."""

    def __init__(self, message: str, rank: int) -> None:
        """`rank`: the first of those that differ from most."""
        super().__init__(message)
        self.rank = rank


class StopHere(Exception):
    """The ranks agreed, all at the same place, to end the run in the middle of something that can last."""

    def __init__(self, reason: StopReason) -> None:
        self.reason = reason


class StopAtStart(BaseException):
    """A request to stop before the run's first iteration: nothing was trained that would have to be kept, so the start
    is broken off wherever it is. No Exception: what a compiler or an environment may raise is caught in places."""


class EnvironmentFault(Exception):
    """An environment gave a number that is none, as all ranks agree: nothing that other settings would mend, and no
    outcome of these."""

    def __init__(self, message: str, rank: int) -> None:
        """`rank`: whose environment it is."""
        super().__init__(message)
        self.rank = rank


class EnvironmentFailed(Exception):
    """An environment broke in a worker process or an evaluation, or the process died; says how, in one line."""
