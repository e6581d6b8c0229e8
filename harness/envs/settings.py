"""The `env` section of a run's settings."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from harness.settings import Settings


class EnvSettings(Settings):
    id: str
    """A gymnasium id, or `module:Name-v0`: the module is imported first and registers the name."""
    kwargs: dict[str, Any] = {}
    """Keyword arguments for the environment."""
    count: int = Field(8, ge=1)
    """Environments over all ranks together; each rank steps its share."""
    backend: Literal["auto", "native", "sync", "workers"] = "auto"
    """How a rank steps its share: `native`, the environment's own vector class; `sync`, one after the other;
    `workers`, a
    process each. `auto` takes `native` where there is one, otherwise `sync`."""
    wrappers: list[str] = []
    """Wrappers around each environment, innermost first, each `module:callable`, called with the environment."""
    normalize_observations: bool = False
    """Centre and scale observations by the moments of all that all ranks have seen, clipped to ±10."""
    normalize_rewards: bool = False
    """Scale rewards by the standard deviation of the discounted return, clipped to ±10. Reported returns are true
    ones."""
