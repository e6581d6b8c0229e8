"""The rows of the table: a preset, what was published for it, and what it has to reach."""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass

from harness.config import load_table, preset_names
from harness.settings import apply_overrides

SEEDS_FROM = 100
"""The first seed of a row; presets are tuned with smaller ones."""
LEAST_SEEDS = 5
"""Below so many a row is only told, not judged."""
FULL_SCORE, FULL_MEAN, FULL_EACH = 500.0, 490.0, 475.0
"""CartPole-v1's most, which its references all reach; then what the mean over seeds and every seed have to be."""


def seeds_of(asked: str) -> list[int]:
    """`5`: so many, from SEEDS_FROM on; `100,104`: these."""
    try:
        numbers = [int(number) for number in asked.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"must be how many, at least 1, or which, as in 100,104; got {asked!r}")
    return numbers if len(numbers) > 1 else list(range(SEEDS_FROM, SEEDS_FROM + numbers[0]))


@dataclass(frozen=True)
class Row:
    preset: str
    reference: float
    """The published mean over evaluation episodes."""
    spread: float
    """Their standard deviation."""
    steps: int
    """The environment steps that it took."""
    published: str = ""
    """Where the reference is of another version of the environment: which."""
    again: tuple[float, ...] = ()
    """What Stable-Baselines3 reached with the same settings when it was run again, a run each."""
    again_spread: float | None = None
    ranks: int = 1
    overrides: tuple[str, ...] = ()
    note: str = ""
    judged: bool = True
    """False where a run is not to reach anything, because it is shorter than the reference's."""

    @property
    def floor(self) -> float:
        """The least mean over seeds: the reference less its deviation, or what was reached again where that is less."""
        if self.reference == FULL_SCORE:
            return FULL_MEAN
        least = self.reference - self.spread
        return min(least, sum(self.again) / len(self.again)) if self.again else least

    @property
    def floor_of_each(self) -> float | None:
        return FULL_EACH if self.reference == FULL_SCORE else None

    @property
    def exists(self) -> bool:
        return self.preset in preset_names()

    def command(self, seed: int | str) -> tuple[str, ...]:
        """The arguments of `python -m harness` for one run."""
        ranks = ("--ranks", str(self.ranks)) if self.ranks > 1 else ()
        return ("train", self.preset, f"seed={seed}", *self.overrides, *ranks)

    def settings(self) -> str:
        """Short, and different where anything that the preset says is different."""
        table = apply_overrides(load_table(self.preset), self.overrides)
        said = json.dumps([table, self.ranks], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()[:10]


# References: rl-baselines3-zoo, benchmark.md. Run again: Stable-Baselines3 2.9 with the zoo's settings, one run each
# (two of MountainCar), 100 evaluation episodes.
EVERY = (
    Row("ppo-cartpole", 500, 0, 100_000, again=(500,)),
    Row("dqn-cartpole", 500, 0, 50_000, again=(500,)),
    Row("a2c-cartpole", 500, 0, 500_000, again=(500,)),
    Row("ppo-pendulum", -172, 104, 100_000, again=(-154,), again_spread=92),
    Row("a2c-acrobot", -83.4, 17.2, 500_000, again=(-84,), again_spread=43),
    Row("ppo-acrobot", -73.5, 18.2, 1_000_000, again=(-71.8,), again_spread=9.3),
    Row("dqn-acrobot", -76.6, 11.8, 100_000, again=(-74.9,), again_spread=8.9),
    Row("dqn-mountaincar", -100.8, 9.9, 120_000, again=(-114, -121)),
    Row("sac-pendulum", -157, 89, 20_000, again=(-136,), again_spread=75),
    Row("td3-pendulum", -152, 90, 20_000),
    Row("sac-mountaincarcontinuous", 94.7, 1.1, 50_000),
    Row("dqn-lunarlander", 154, 79, 100_000, "LunarLander-v2"),
    Row("ppo-lunarlander", 242, 32, 1_000_000, "LunarLander-v2", again=(245,), again_spread=21),
    Row("ppo-halfcheetah", 5819, 664, 1_000_000, "HalfCheetah-v3"),
    Row("sac-lunarlandercontinuous", 260, 65, 500_000, "LunarLanderContinuous-v2"),
    Row("ppo-hopper", 2410, 10, 1_000_000, "Hopper-v3"),
    Row("ppo-walker2d", 3479, 822, 1_000_000, "Walker2d-v3"),
    Row("sac-halfcheetah", 9535, 100, 1_000_000, "HalfCheetah-v3"),
)
ROWS = {row.preset: row for row in EVERY}
