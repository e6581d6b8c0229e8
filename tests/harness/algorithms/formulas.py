"""Gradients written out in numpy, for several algorithms' tests."""

from __future__ import annotations

import numpy as np


def gaussian_policy_gradient(
    states: np.ndarray, actions: np.ndarray, means: np.ndarray, log_std: np.ndarray, advantages: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the mean of -A log π over samples (n, …) where means are W s + b: by W (a, s), by b (a,) and by log σ (a,).

    ∂log π/∂μ is (a - μ) / σ², ∂log π/∂log σ is ((a - μ) / σ)² - 1.
    """
    standard = (actions - means) / np.exp(log_std)
    by_mean = -advantages[:, None] * standard / np.exp(log_std) / len(states)
    by_log_std = -advantages[:, None] * (standard**2 - 1.0) / len(states)
    return by_mean.T @ states, by_mean.sum(0), by_log_std.sum(0)
