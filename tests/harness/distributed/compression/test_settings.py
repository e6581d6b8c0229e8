"""What cannot be, or makes no sense, is one line before anything is compressed; each kind takes its settings."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from harness.compression_settings import COMPRESSION_KINDS, CompressionSettings
from harness.config import load_run_config
from harness.distributed.arena import Arena
from harness.distributed.compression import COMPRESSORS, make_compressor
from harness.distributed.transports.base import Alone
from harness.errors import BadInput
from harness.run.checks import check
from tests.harness.distributed.compression.vectors import KINDS, NUMBERS, make, normal, sent

SGD = ["optimizer.name=sgd", "compression.kind=top_k", "compression.momentum_correction=0.9"]


def test_the_registry_has_what_the_setting_may_be() -> None:
    assert ("none", *COMPRESSORS) == COMPRESSION_KINDS


@pytest.mark.parametrize(
    "settings, words",
    [
        (["kind=top"], "compression.kind must be one of none, fp16"),
        (["kind=top_k", "fraction=0"], "compression.fraction must be > 0, got 0"),
        (["kind=top_k", "fraction=1.5"], "compression.fraction must be <= 1, got 1.5"),
        (["kind=int8", "block=100"], "compression.block must be a multiple of 8, got 100"),
        (["kind=int8", "block=0"], "compression.block must be >= 8, got 0"),
        (["kind=powersgd", "rank=0"], "compression.rank must be >= 1, got 0"),
        (["kind=sign", "warmup_updates=-1"], "compression.warmup_updates must be >= 0, got -1"),
        (["kind=sign", "error_feedback=perhaps"], "compression.error_feedback"),
        (["kind=top_k", "momentum_correction=1"], "compression.momentum_correction must be < 1, got 1"),
        (["kind=sign", "momentum_correction=0.9"], "compression: momentum_correction must be 0 with sign"),
        (["kind=none", "momentum_correction=0.9"], "compression: momentum_correction must be 0 with none"),
        (["kind=int8", "kwargs={levels=3}"], "compression: kwargs must be absent with int8"),
    ],
)
def test_a_bad_value_is_refused_with_what_it_may_be(settings: list[str], words: str) -> None:
    with pytest.raises(BadInput) as refused:
        load_run_config("ppo-cartpole", [f"compression.{each}" for each in settings])
    assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "settings, words",
    [
        (SGD[1:], "compression.momentum_correction is the momentum of optimizer.name = 'sgd'"),
        ([*SGD, "optimizer.momentum=0.9"], "with optimizer.momentum = 0"),
        ([*SGD, "compression.error_feedback=false"], "momentum_correction must be 0 without error_feedback"),
        (["compression.kind=sign", "precision.kind=fp16"], "precision.kind must be 'fp32' or 'bf16'"),
        (["compression.kind=int8", "compression.error_feedback=true", "precision.kind=fp16"], "loss scale of 'fp16'"),
    ],
)
def test_what_another_section_says_against_it_is_told(settings: list[str], words: str) -> None:
    with pytest.raises(BadInput) as refused:
        load_run_config("ppo-cartpole", settings)
    assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("settings", [SGD, ["compression.kind=int8", "precision.kind=fp16"]])
def test_what_goes_together_is_taken(settings: list[str]) -> None:
    load_run_config("ppo-cartpole", settings)


def test_a_search_may_give_every_kind_the_settings_of_all() -> None:
    every = ["compression.fraction=0.1", "compression.rank=2", "compression.block=64", "compression.warmup_updates=3"]
    for kind in COMPRESSION_KINDS:
        assert load_run_config("ppo-cartpole", [f"compression.kind={kind}", *every]).compression.kind == kind


@pytest.mark.parametrize("kind", KINDS)
def test_error_feedback_is_on_where_much_is_left_out(kind: str) -> None:
    by_default = {each for each in KINDS if CompressionSettings(kind=each).feeds_back}
    assert by_default == {"sign", "top_k", "random_k", "powersgd"}
    for switch in (False, True):
        compressor = make(kind, error_feedback=switch)
        sent(compressor, normal(0))
        assert ("residual" in compressor.rank_state()) == switch


def attached(kind: str, ranks: int, *shapes: tuple[int, ...], **settings: float) -> None:
    group = Alone()
    group.size = ranks
    compressor = make_compressor(CompressionSettings(kind=kind, **settings))  # type: ignore[arg-type]
    assert compressor is not None
    compressor.attach(Arena(nn.ParameterList(torch.zeros(shape) for shape in shapes)), group)


def test_top_k_of_so_many_ranks_that_a_sum_of_all_takes_less_is_refused_before_they_start() -> None:
    config = load_run_config("ppo-cartpole", ["compression.kind=top_k", "compression.fraction=0.3"])
    check(config, 3)
    with pytest.raises(BadInput, match="compression.fraction must be at most 1 / 4 for 4 ranks .*, got 0.3"):
        check(config, 4)
    check(load_run_config("ppo-cartpole", ["compression.kind=random_k", "compression.fraction=0.3"]), 4)


def test_powersgd_of_a_network_that_its_factors_do_not_make_smaller_is_refused() -> None:
    attached("powersgd", 2, (20, 20), (20,), rank=9)
    for shapes in ([(20, 20), (20,)], [(400,)]):
        with pytest.raises(BadInput, match="compression.rank = 10 .* makes no parameter of this network smaller"):
            attached("powersgd", 2, *shapes, rank=10)


def test_bytes_on_the_wire_are_those_of_the_messages() -> None:
    expected = {
        "fp16": 2 * NUMBERS + 4 * 8,
        "bf16": 2 * NUMBERS,
        "int8": NUMBERS + 4 * 8,
        "sign": NUMBERS / 8 + 4 * 8,
        "top_k": 8 * 21,
        "random_k": 4 * 22,
        "powersgd": 4 * (4 * (40 + 50) + 24),
    }
    for kind in KINDS:
        compressor = make(kind)
        sent(compressor, normal(0))
        assert expected[kind] <= compressor.bytes_on_the_wire() <= expected[kind] + 64, kind
