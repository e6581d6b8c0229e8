"""Why a run ends before its budget."""

from __future__ import annotations

GO_ON, RANKS_CHANGE, STOP_REQUEST, TIME_IS_UP, STOP_VERDICT, PRUNED, SUPERSEDED = range(7)
"""Why a run ends before its budget, in the order in which one reason outranks another."""
