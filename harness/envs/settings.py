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
    backend: Literal["auto", "native", "envpool", "sync", "workers"] = "auto"
    """How a rank steps its share: `native`, the environment's own vector class; `envpool`, EnvPool's of that name;
    `sync`, one after the other; `workers`, in processes of several environments each. `auto` takes `native` where its
    episodes are the same on any number of ranks, and otherwise the fastest, as measured at the start: `envpool` where
    its extra is installed and it is clearly so, `workers` where the environment is slow and the rank has several
    cores."""
    workers: int | None = Field(None, ge=1)
    """Processes of `workers`, and threads of `envpool`, per rank; unset: this rank's share of the cores."""
    double_buffer: Literal["auto", "on", "off"] = "auto"
    """With `workers`, step half of a rank's environments while the policy acts for the other half. `auto`: where there
    are workers for it."""
    wrappers: list[str] = []
    """Wrappers around each environment, innermost first, each `module:callable`, called with the environment."""
    normalize_observations: bool = False
    """Centre and scale observations by the moments of all that all ranks have seen, clipped to ±10."""
    normalize_rewards: bool = False
    """Scale rewards by the standard deviation of the discounted return, clipped to ±10. Reported returns are true
    ones."""
