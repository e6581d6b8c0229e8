"""What is left out is sent later, survives a checkpoint, and is not there in the updates of the warm-up."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.harness.distributed.compression.vectors import KINDS, NUMBERS, make, normal, sent, square


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_sent_and_the_residual_are_the_sum_of_the_gradients(kind: str) -> None:
    compressor, given, received = make(kind, error_feedback=True, fraction=0.05), np.zeros(NUMBERS), np.zeros(NUMBERS)
    for update in range(60):
        gradient = normal(update) * np.float32(1 + update % 3)
        given += gradient
        received += sent(compressor, gradient)
    residual = compressor.rank_state()["residual"].numpy()
    np.testing.assert_allclose(received + residual, given, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_drifts(kind: str) -> None:
    """Of the same gradient again and again the mean of what was sent comes ever nearer to it."""
    compressor, gradient, received, errors = make(kind, error_feedback=True, fraction=0.1), normal(1), 0.0, {}
    for update in range(1, 201):
        received = received + sent(compressor, gradient)
        errors[update] = math.sqrt(square(received / update - gradient))
    assert errors[200] < 0.6 * errors[50]


def test_momentum_is_corrected_as_in_deep_gradient_compression() -> None:
    """Algorithm 1 with equations 6 and momentum factor masking, in numpy."""
    compressor = make("top_k", fraction=0.05, momentum_correction=0.9)
    velocity, left, k = np.zeros(NUMBERS, np.float32), np.zeros(NUMBERS, np.float32), math.ceil(0.05 * NUMBERS)
    for update in range(30):
        velocity = np.float32(0.9) * velocity + normal(update)
        left = left + velocity
        chosen = np.abs(left) >= np.sort(np.abs(left))[-k]
        np.testing.assert_allclose(sent(compressor, normal(update)), np.where(chosen, left, 0), atol=1e-4)
        velocity[chosen] = left[chosen] = 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_updates_of_the_warm_up_are_summed_as_they_are(kind: str) -> None:
    compressor = make(kind, warmup_updates=3, error_feedback=True)
    exact = [np.array_equal(sent(compressor, normal(update)), normal(update)) for update in range(5)]
    assert exact == [True] * 3 + [False] * 2
    assert compressor.bytes_on_the_wire() < 4 * NUMBERS


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("kind", KINDS)
def test_a_compressor_resumes_to_the_bit(kind: str, momentum: float) -> None:
    if momentum and kind not in ("top_k", "random_k"):
        return
    settings: dict[str, Any] = {"error_feedback": True, "momentum_correction": momentum, "warmup_updates": 1}
    one, other = make(kind, **settings), make(kind, **settings)
    for update in range(4):
        sent(one, normal(update))
    assert other.load_rank_state(through_a_file(one.rank_state())) is None
    assert torch.equal(other.rank_state()["residual"], one.rank_state()["residual"])  # a checkpoint before an update
    for update in range(4, 8):
        assert np.array_equal(sent(one, normal(update)), sent(other, normal(update)))


def test_a_state_that_was_loaded_is_a_copy() -> None:
    one, other = make("top_k"), make("top_k")
    sent(one, normal(0))
    other.load_rank_state(one.rank_state())
    before = one.rank_state()["residual"].clone()
    sent(other, normal(1))
    assert torch.equal(one.rank_state()["residual"], before)


@pytest.mark.parametrize("kind", KINDS)
def test_what_other_ranks_left_out_is_dropped_with_a_line(kind: str) -> None:
    compressor = make(kind, error_feedback=True)
    first = sent(compressor, normal(0))
    line = compressor.load_rank_state(None)
    assert line is not None and "dropped" in line
    assert np.array_equal(sent(compressor, normal(0)), first)


def test_where_nothing_is_left_out_nothing_is_dropped() -> None:
    assert make("int8").load_rank_state(None) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, -1])
def test_a_number_that_is_none_leaves_no_finite_sum(kind: str, value: float, place: int) -> None:
    compressor = make(kind, error_feedback=False, shapes=((400, 250), (24,)))
    good = normal(0, 100_024)
    bad = good.copy()
    bad[place] = value
    assert not math.isfinite(square(sent(compressor, bad)))
    assert math.isfinite(square(sent(compressor, good))), "an update that is skipped leaves nothing behind"


@pytest.mark.parametrize("kind", ["int8", "random_k", "powersgd"])
def test_draws_follow_from_the_seed_and_the_update(kind: str) -> None:
    def first_two(seed: int) -> list[np.ndarray]:
        compressor = make(kind, seed, error_feedback=False)
        return [sent(compressor, normal(0)) for _ in range(2)]

    one, again, other = first_two(1), first_two(1), first_two(2)
    assert np.array_equal(one, again)
    assert not np.array_equal(one[0], one[1]) and not np.array_equal(one[0], other[0])
