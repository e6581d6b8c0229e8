"""Numbers made of runs: interquartile means, bootstrap intervals, learning curves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import trim_mean

RESAMPLES = 10_000
POINTS = 60
"""Of a learning curve."""


def interquartile_mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """The mean of what is left without the lowest and the highest quarter, rounded down (Agarwal et al. 2021, section
    4.3, https://arxiv.org/abs/2108.13264)."""
    return trim_mean(values, 0.25, axis=axis)


def bootstrap(
    values: Sequence[float] | np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], level: float = 0.95
) -> tuple[float, float]:
    """The percentile interval of `statistic` over resamples of the first axis, drawn with replacement (Efron 1979).

    `values`: (n, …); `statistic` takes (resamples, n, …) and gives (resamples,). The draws are always the same.
    """
    array = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(0).integers(len(array), size=(RESAMPLES, len(array)))
    low, high = np.percentile(statistic(array[draws]), [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def curve(lines: Iterable[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """(environment steps, mean return of the episodes that ended about then), at most `POINTS` of them, of the lines
    of a metrics.jsonl."""
    seen = [line for line in lines if line.get("return_mean") is not None]
    if not seen:
        return []
    steps = np.array([line["env_steps"] for line in seen])
    returns = np.array([line["return_mean"] for line in seen], dtype=np.float64)
    episodes = np.array([line["episodes"] for line in seen], dtype=np.float64)
    bins = (steps - 1) * POINTS // int(steps[-1])
    return [
        (int(steps[bins == each].mean()), float(np.average(returns[bins == each], weights=episodes[bins == each])))
        for each in np.unique(bins)
    ]
