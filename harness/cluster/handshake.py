"""What whoever started this process says to it: variables of its environment, read once, at its start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BadInput

HAS_PARENT = "HARNESS_HAS_PARENT"
"""A parent of `--ranks N` watches the ranks, and draws what they do."""
SECONDS_SPENT = "HARNESS_SECONDS_SPENT"
"""How much of `run.max_minutes` earlier starts by the same parent have spent."""
REGISTERED = "HARNESS_REGISTERED"
"""Where the parent has written the registration of an environment that its script alone knows."""
TRIAL_DIR, ATTEMPT, SEED_INDEX = "HARNESS_TRIAL_DIR", "HARNESS_ATTEMPT", "HARNESS_SEED_INDEX"
"""The trial of a search that the process belongs to."""
ELASTIC = "HOROVOD_ELASTIC"
"""Horovod's elastic launcher started it."""


@dataclass(frozen=True)
class Handshake:
    """The variables, each with its meaning for a run; `variables` gives them back, for a process that is started."""

    has_parent: bool = False
    seconds_spent: float = 0.0
    registration: Path | None = None
    trial_dir: Path | None = None
    attempt: int = 1
    seed_index: int = 0
    """Of the trial's seeds, 0 … seeds - 1; not the seed itself."""
    elastic: bool = False

    @classmethod
    def read(cls, env: Mapping[str, str]) -> Handshake:
        """BadInput for a variable that is no number and has to be one."""
        return cls(
            has_parent=bool(env.get(HAS_PARENT)),
            seconds_spent=number(env, SECONDS_SPENT),
            registration=Path(env[REGISTERED]) if env.get(REGISTERED) else None,
            trial_dir=Path(env[TRIAL_DIR]) if env.get(TRIAL_DIR) else None,
            attempt=whole_number(env, ATTEMPT, 1),
            seed_index=whole_number(env, SEED_INDEX, 0),
            elastic=env.get(ELASTIC) == "1",
        )

    @property
    def watched(self) -> bool:
        """Whether a parent or a search's driver watches the ranks."""
        return self.has_parent or self.trial_dir is not None

    def variables(self) -> dict[str, str]:
        """What `read` reads, but for the launcher's own."""
        found: dict[str, str] = {}
        if self.has_parent:
            found |= {HAS_PARENT: "1", SECONDS_SPENT: str(self.seconds_spent)}
        if self.registration is not None:
            found[REGISTERED] = str(self.registration)
        if self.trial_dir is not None:
            trial = {TRIAL_DIR: str(self.trial_dir), ATTEMPT: str(self.attempt), SEED_INDEX: str(self.seed_index)}
            found.update(trial)
        return found


def whole_number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, str(default))
    if not text.isdigit():
        raise BadInput(f"{name} must be a whole number >= 0, got {text!r}")
    return int(text)


def number(env: Mapping[str, str], name: str) -> float:
    text = env.get(name, "0")
    try:
        return float(text)
    except ValueError:
        raise BadInput(f"{name} must be a number, got {text!r}") from None
