"""What each compressor makes of a vector, beside the formulas and bounds of its paper."""

from __future__ import annotations

import math
from unittest import mock

import numpy as np
import pytest

from harness.distributed.compression import top_k
from tests.harness.distributed.compression.vectors import NUMBERS, REST, ROWS, make, normal, samples, sent, square

BLOCK = 64


def unbiased(drawn: np.ndarray, expected: np.ndarray) -> bool:
    """Whether the means of the columns scatter about `expected` as their standard errors say: chi-square per degree of
    freedom within 5 standard deviations of 1."""
    errors = drawn.std(0, ddof=1) / math.sqrt(len(drawn))
    varies = errors > 1e-12  # a block's largest number is all but a step of its own
    assert np.allclose(drawn.mean(0)[~varies], expected[~varies], rtol=1e-4)
    z = (drawn.mean(0) - expected)[varies] / errors[varies]
    return abs(float(np.mean(z**2)) - 1) < 5 * math.sqrt(2 / varies.sum())


def test_int8_is_unbiased_with_the_variance_of_stochastic_rounding() -> None:
    vector = normal(1)
    drawn = samples(make("int8", block=BLOCK), vector, 1500)
    blocks = np.pad(vector.astype(np.float64), (0, -NUMBERS % BLOCK)).reshape(-1, BLOCK)
    step = np.abs(blocks).max(1, keepdims=True) / 127
    fraction = np.mod(blocks / step, 1.0)
    variance = (fraction * (1 - fraction) * step**2).sum()
    assert unbiased(drawn, vector.astype(np.float64))
    assert np.square(drawn - vector).sum(1).mean() == pytest.approx(variance, rel=0.02)


def test_int8_is_within_the_bound_of_qsgd_in_each_block() -> None:
    vector = normal(2)[: 20 * BLOCK] ** 3
    drawn = samples(make("int8", block=BLOCK, shapes=((20 * BLOCK,),)), vector, 400)
    squares = np.square(drawn - vector).mean(0).reshape(-1, BLOCK).sum(1)
    norms = np.square(vector.astype(np.float64)).reshape(-1, BLOCK).sum(1)
    assert (squares <= min(BLOCK / 127**2, math.sqrt(BLOCK) / 127) * norms).all()


def test_int8_errs_by_0_408_of_a_step() -> None:
    vector = np.random.default_rng(3).uniform(-1, 1, 50_000).astype(np.float32)
    vector[::BLOCK] = 1.0
    error = sent(make("int8", block=BLOCK, shapes=((50_000,),)), vector) - vector
    assert math.sqrt(np.square(error).mean()) * 127 == pytest.approx(math.sqrt(1 / 6), rel=0.02)


def test_int8_holds_zeros_and_largest_numbers() -> None:
    vector = np.zeros(3 * BLOCK, np.float32)
    vector[BLOCK : 2 * BLOCK] = np.where(np.arange(BLOCK) % 2, 3.7e8, -3.7e8)
    vector[-1] = 1e-30
    for _ in range(20):
        found = sent(make("int8", block=BLOCK, shapes=((3 * BLOCK,),)), vector)
        np.testing.assert_allclose(found, vector, rtol=2e-6)


def test_a_sign_is_the_mean_of_its_block() -> None:
    vector = normal(4)[: 31 * BLOCK] ** 3
    found = sent(make("sign", block=BLOCK, shapes=((31 * BLOCK,),)), vector)
    blocks = vector.astype(np.float64).reshape(-1, BLOCK)
    scale = np.abs(blocks).mean(1, keepdims=True)
    np.testing.assert_allclose(found, (scale * np.where(blocks >= 0, 1, -1)).ravel(), rtol=1e-5)
    share = np.abs(blocks).sum(1) ** 2 / (BLOCK * np.square(blocks).sum(1))  # phi of Karimireddy et al., lemma 8
    errors = np.square(found - vector).reshape(-1, BLOCK).sum(1)
    np.testing.assert_allclose(errors, (1 - share) * np.square(blocks).sum(1), rtol=1e-4)


@pytest.mark.parametrize("kind, digits", [("fp16", 11), ("bf16", 8)])
def test_words_of_16_bits_round_relatively_and_never_overflow(kind: str, digits: int) -> None:
    vector = normal(5) * np.repeat(np.float32([1e-9, 1.0, 3e6, 1e30]), NUMBERS // 4)
    found = sent(make(kind, block=8), vector)
    blocks = np.abs(vector.astype(np.float64)).reshape(-1, 8)
    least = blocks.max(1, keepdims=True) * 2.0**-28  # below it half precision is subnormal
    error = np.abs(found - vector).reshape(-1, 8)
    assert (error <= np.maximum(blocks, least) * 2.0**-digits * 1.001).all()


@pytest.mark.parametrize("kind", ["fp16", "bf16", "int8", "sign"])
@pytest.mark.parametrize("numbers", [1, 7, 8, 300, 65_536, 150_001])
def test_a_vector_of_any_length_is_encoded_to_its_end(kind: str, numbers: int) -> None:
    vector = np.where(np.arange(numbers) % 3, 2.0, -2.0).astype(np.float32)
    full = numbers // 256 * 256
    found = sent(make(kind, shapes=((numbers,),)), vector)
    tolerance = 1 / 126 if kind == "int8" else 1e-5  # a step: once in 8,000 the largest number is rounded down
    np.testing.assert_allclose(found[:full], vector[:full], rtol=tolerance)
    if kind == "sign":  # a block that is not full has the mean of a full one
        np.testing.assert_allclose(found[full:], vector[full:] * (numbers - full) / 256, rtol=1e-5)
    else:
        np.testing.assert_allclose(found[full:], vector[full:], rtol=tolerance)


def hidden_peaks() -> np.ndarray:
    """Numbers of which a sample at equal distances sees the small ones alone."""
    vector = np.abs(normal(6, 400_000)) * np.float32(1e-3)
    vector[np.random.default_rng(0).permutation(400_000)[:6000] // 2 * 2 + 1] = 5.0
    return vector + np.linspace(0, 1e-6, 400_000, dtype=np.float32)


def seen_peaks() -> np.ndarray:
    """Numbers of which such a sample sees the large ones alone."""
    vector = normal(6, 400_000)
    vector[:: 400_000 // top_k.SAMPLE] *= 1000
    return vector


VECTORS = {
    "short": normal(7),
    "long": normal(8, 300_000),
    "heavy tails": normal(9, 300_000) ** 9,
    "hidden from the sample": hidden_peaks(),
    "all that the sample sees": seen_peaks(),
    "equal": np.full(100_000, -2.0, np.float32),
}


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("fraction", [0.01, 0.2])
def test_top_k_sends_the_k_largest(name: str, fraction: float) -> None:
    vector = VECTORS[name]
    found = sent(make("top_k", fraction=fraction, error_feedback=False, shapes=((len(vector),),)), vector)
    k = math.ceil(fraction * len(vector))
    assert np.count_nonzero(found) == k
    assert np.array_equal(found[found != 0], vector[found != 0])
    assert np.abs(found[found != 0]).min() == np.sort(np.abs(vector))[-k]
    assert square(found - vector) <= (1 - k / len(vector)) * square(vector) * (1 + 1e-6)


def test_top_k_of_less_numbers_than_k_sends_them_all() -> None:
    vector = np.zeros(100_000, np.float32)
    vector[[3, 70_000]] = -1.0, 2.0
    compressor = make("top_k", error_feedback=False, shapes=((100_000,),))
    assert np.array_equal(sent(compressor, vector), vector)
    assert np.array_equal(sent(compressor, np.zeros_like(vector)), np.zeros_like(vector))


def test_a_threshold_searches_little_more_than_k_numbers() -> None:
    vector, searched = VECTORS["long"], []
    search = top_k.at_least
    with mock.patch.object(top_k, "at_least", lambda *given: searched.append(search(*given)) or searched[-1]):
        sent(make("top_k", fraction=0.01, shapes=((300_000,),)), vector)
    assert len(searched) == 1 and 3000 <= len(searched[0]) <= 4500


def test_random_k_without_error_feedback_is_unbiased_with_its_variance() -> None:
    vector = normal(10)
    drawn = samples(make("random_k", fraction=0.1, error_feedback=False), vector, 3000)
    k = math.ceil(0.1 * NUMBERS)
    edges = np.arange(k + 1) * NUMBERS // k
    lengths = np.repeat(np.diff(edges), np.diff(edges))
    assert np.count_nonzero(drawn, axis=1).max() == k
    assert unbiased(drawn, vector.astype(np.float64))
    variance = ((lengths - 1) * np.square(vector.astype(np.float64))).sum()
    assert np.square(drawn - vector).sum(1).mean() == pytest.approx(variance, rel=0.02)
    assert variance == pytest.approx((NUMBERS / k - 1) * square(vector), rel=0.02)


def test_random_k_as_it_is_leaves_out_one_minus_k_of_n() -> None:
    vector, errors = normal(11), []
    for seed in range(500):
        errors.append(square(sent(make("random_k", seed, fraction=0.1), vector) - vector))
    assert np.mean(errors) == pytest.approx((1 - math.ceil(0.1 * NUMBERS) / NUMBERS) * square(vector), rel=0.01)


def test_powersgd_is_exact_for_a_matrix_of_its_rank_and_for_what_is_no_matrix() -> None:
    random = np.random.default_rng(12)
    matrix = random.standard_normal((ROWS, 4)) @ random.standard_normal((4, 50))
    vector = np.concatenate([matrix.ravel(), random.standard_normal(REST)]).astype(np.float32)
    found = sent(make("powersgd", rank=4), vector)
    np.testing.assert_allclose(found, vector, atol=5e-4)
    assert np.array_equal(found[-REST:], vector[-REST:])
    less = sent(make("powersgd", rank=3), vector)
    assert square(less - vector) > 0.01 * square(vector)


def test_powersgd_comes_to_the_best_matrix_of_its_rank_when_it_goes_on_from_the_last_one() -> None:
    vector = normal(13)
    compressor = make("powersgd", rank=3, error_feedback=False)
    errors = np.square(samples(compressor, vector, 200) - vector).sum(1)
    values = np.linalg.svd(vector[:-REST].reshape(ROWS, 50).astype(np.float64), compute_uv=False)
    assert errors[0] > errors[5] > errors[-1]
    assert errors[-1] == pytest.approx(np.square(values[3:]).sum(), rel=0.01)


def test_a_convolution_is_a_matrix_of_its_output_channels() -> None:
    random = np.random.default_rng(14)
    kernel = random.standard_normal((32, 1)) @ random.standard_normal((1, 3 * 5 * 5))
    found = sent(make("powersgd", rank=1, shapes=((32, 3, 5, 5),)), kernel.ravel().astype(np.float32))
    np.testing.assert_allclose(found, kernel.ravel(), atol=1e-5)
