"""Batches and outputs in whatever containers: what is changed in them, what stays, and how many samples they hold."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from harness.training.containers import arrays_in, count_samples, is_sequence, map_leaves, to_device

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

SAMPLES = 5
Two = namedtuple("Two", "one other")


@dataclass(frozen=True)
class Frozen:
    one: Any
    other: Any = None


class Kept(dict):
    """Of a class of its own, with more to it than its items."""

    name = "kept"


def tensors() -> st.SearchStrategy[torch.Tensor]:
    return st.lists(st.integers(0, 3), max_size=2).map(lambda shape: torch.zeros(SAMPLES, *shape))


def mappings(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    kinds = [dict, OrderedDict, UserDict, Kept, MappingProxyType, lambda items: defaultdict(list, items)]
    items = st.dictionaries(st.text(max_size=2), inner, min_size=1, max_size=3)
    return st.builds(lambda kind, items: kind(items), st.sampled_from(kinds), items)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    sequences = st.lists(inner, min_size=1, max_size=3)
    return (
        sequences
        | sequences.map(tuple)
        | st.builds(Two, inner, inner)
        | st.builds(Frozen, inner, inner)
        | mappings(inner)
    )


LEAVES = tensors() | st.none() | st.text(max_size=3) | st.integers()
BATCHES = st.recursive(LEAVES, containers, max_leaves=8)


def shape_of(value: Any) -> Any:
    """`value` without its tensors' numbers, to be compared; a mapping that cannot be made again may be a dict."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape)
    if isinstance(value, (dict, UserDict, MappingProxyType)):
        kind = dict if isinstance(value, MappingProxyType) else type(value)
        return kind, [(key, shape_of(inner)) for key, inner in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [shape_of(inner) for inner in value]
    return (Frozen, shape_of(value.one), shape_of(value.other)) if isinstance(value, Frozen) else value


@settings(max_examples=150, deadline=None)
@given(BATCHES)
def test_every_tensor_is_changed_and_nothing_else(batch: Any) -> None:
    before = [array.clone() for array in arrays_in(batch)]
    changed = map_leaves(lambda leaf: leaf + 1, batch)
    assert shape_of(changed) == shape_of(batch)
    assert all((array == 1).all() for array in arrays_in(changed))
    assert all(torch.equal(array, old) for array, old in zip(arrays_in(batch), before)), "the batch itself is as it was"


@settings(max_examples=100, deadline=None)
@given(BATCHES)
def test_samples_are_counted_wherever_a_tensor_stands(batch: Any) -> None:
    if not list(arrays_in(batch)):
        with pytest.raises(ValueError, match="without tensors"):
            count_samples(batch)
        return
    assert count_samples(batch) == SAMPLES
    assert all(array.device.type == "meta" for array in arrays_in(to_device(batch, torch.device("meta"))))


def test_targets_tell_the_samples_of_sequences_whose_first_dimension_is_time() -> None:
    assert count_samples((torch.zeros(12, SAMPLES, 3), torch.zeros(SAMPLES))) == SAMPLES


def test_packed_and_nested_sequences_are_one_thing_that_holds_as_many_samples_as_sequences() -> None:
    packed = pack_sequence([torch.zeros(length) for length in (4, 2, 1)])
    assert count_samples(packed) == 3 and not is_sequence(packed)
    assert to_device(packed, torch.device("cpu")).batch_sizes.device.type == "cpu"
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged)
    assert count_samples(nested) == 2


def test_what_moves_itself_is_asked_to() -> None:
    class Graph:
        def to(self, device: torch.device) -> str:
            return f"moved to {device}"

    assert to_device({"graph": Graph()}, torch.device("cpu")) == {"graph": "moved to cpu"}
