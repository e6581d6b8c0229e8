"""Why a run ends before its budget, as its ranks agree.

What only one of them can know (a signal, a verdict, the clock) is agreed by one collective at each boundary, and acted
on by all at the same.
"""

from __future__ import annotations

import time
from enum import IntEnum
from typing import TYPE_CHECKING

from harness.errors import StopHere

if TYPE_CHECKING:
    from harness.reporting import Reporter
    from harness.run.attempt import Attempt
    from harness.run.checkpointer import Checkpointer


class StopReason(IntEnum):
    """In the order in which one outranks another."""

    GO_ON = 0
    RANKS_CHANGE = 1
    STOP_REQUEST = 2
    TIME_IS_UP = 3
    STOP_VERDICT = 4
    PRUNED = 5
    SUPERSEDED = 6


VERDICTS = {"pruned": StopReason.PRUNED, "superseded": StopReason.SUPERSEDED}
"""What a search's driver may want; anything else is STOP_VERDICT."""


class StopAgreement:
    """What the ranks agree on at a boundary; every method but `own_reason` is collective."""

    def __init__(self, attempt: Attempt, reporter: Reporter) -> None:
        self.attempt, self.reporter = attempt, reporter
        self.began = time.monotonic()
        self.checkpointer: Checkpointer | None = None
        """Once there is one: the ranks agree on saves by the same collective."""

    def own_reason(self) -> StopReason:
        """This rank's: any rank's signal counts, rank 0's clock, and rank 0's look at the verdict."""
        attempt, reason = self.attempt, StopReason.GO_ON
        if attempt.requests.received:
            reason = StopReason.STOP_REQUEST
        if attempt.membership is not None and attempt.membership.changed:
            reason = max(reason, StopReason.RANKS_CHANGE)
        limit = attempt.config.run.max_minutes
        if attempt.rank == 0 and limit is not None and time.monotonic() - self.began + attempt.spent > 60 * limit:
            reason = max(reason, StopReason.TIME_IS_UP)
        verdict = self.reporter.poll()
        if verdict is not None:
            reason = max(reason, VERDICTS.get(verdict, StopReason.STOP_VERDICT))
        return reason

    def agree(self, **others: float) -> tuple[StopReason, dict[str, float]]:
        """The reason that outranks all others, and the largest of each of `others`."""
        agenda = {} if self.checkpointer is None else self.checkpointer.agenda()
        own = {"reason": float(self.own_reason()), **others, **agenda}
        agreed = self.attempt.world.mesh.control.agree(own, "max")
        if self.checkpointer is not None:
            self.checkpointer.on_agreement(agreed)
        return StopReason(int(agreed["reason"])), agreed

    def reason(self) -> StopReason:
        """Whether to go on after this boundary."""
        return self.agree()[0]

    def listen(self, most: float) -> float:
        """As `Context.listen`: the largest of what the ranks give; StopHere where they agree to stop."""
        reason, agreed = self.agree(most=most)
        if reason != StopReason.GO_ON:
            raise StopHere(reason)
        return agreed["most"]

    def listen_playing(self, busy: bool) -> bool:
        """Whether any rank still plays; StopHere where the ranks agree to break off, unless all have played."""
        reason, agreed = self.agree(playing=float(busy))
        if agreed["playing"] and reason != StopReason.GO_ON:
            raise StopHere(reason)
        return bool(agreed["playing"])
