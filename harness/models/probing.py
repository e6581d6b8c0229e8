"""A look at a network of the user's before it is used: one pass, in evaluation mode, which leaves no trace."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from harness.errors import BadInput

MOST_NAMED = 4
"""Layers that a line names."""


@dataclass(frozen=True)
class Probed:
    outputs: Any
    changed: tuple[str, ...]
    """Buffers that the pass has changed, or given another tensor."""


def probe(network: nn.Module, *inputs: torch.Tensor) -> Probed:
    """What `network` makes of `inputs`. Parameters that come to be with the first pass (lazy ones) stay; all else is as
    it was: buffers, modes, gradients, the process's random numbers."""
    subject = network
    if not any(is_lazy(each) for each in itertools.chain(network.parameters(), network.buffers())):
        try:
            subject = copy.deepcopy(network)
        except Exception:  # of whatever a user's module holds: then its buffers are put back, which is nearly as good
            subject = network
    with torch.random.fork_rng(devices=[]), torch.no_grad(), in_evaluation(subject), kept_buffers(subject) as before:
        outputs = subject(*inputs)
        changed = tuple(name for name, buffer in subject.named_buffers() if before.get(name) != identity(buffer))
    return Probed(outputs, changed)


def identity(buffer: torch.Tensor) -> tuple[int, int]:
    """Which tensor it is, and how often that was written to."""
    return id(buffer), buffer._version


@contextmanager
def in_evaluation(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def kept_buffers(network: nn.Module) -> Iterator[dict[str, tuple[int, int]]]:
    """The identities of all buffers, which are put back where they were."""
    held = [
        (module, name, buffer, None if is_lazy(buffer) else buffer.clone())
        for module in network.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield {name: identity(buffer) for name, buffer in network.named_buffers()}
    finally:
        for module, name, buffer, values in held:
            if values is not None:
                buffer.detach().copy_(values)
                module._buffers[name] = buffer


def refuse_batch_statistics(network: nn.Module, where: str) -> None:
    """BadInput for layers that normalise by whatever batch they are given, in evaluation mode too: what such a policy
    does in a state would depend on which others are asked for beside it, and on the number of ranks."""
    names = [
        name or type(layer).__name__
        for name, layer in network.named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is None
    ]
    if names:
        raise BadInput(
            f"{where}: {shortened(names)} must have track_running_stats=True, or be a LayerNorm or GroupNorm: it "
            "normalises by the batch, so an action would depend on which others are asked for beside it"
        )


def inert_layers(network: nn.Module) -> list[str]:
    """Those that do less in evaluation mode than in training mode, each with its kind."""
    found = []
    for name, layer in network.named_modules():
        inert = isinstance(layer, _NormBase) and layer.running_mean is not None
        inert |= isinstance(layer, _DropoutNd) and layer.p > 0
        inert |= isinstance(layer, (nn.RNNBase, nn.MultiheadAttention)) and layer.dropout > 0
        inert |= isinstance(layer, (nn.RReLU, _SpectralNorm))
        inert |= any(isinstance(hook, SpectralNorm) for hook in layer._forward_pre_hooks.values())
        if inert:
            found.append(f"{name} ({type(layer).__name__.lstrip('_')})" if name else type(layer).__name__)
    return found


def shortened(names: list[str] | tuple[str, ...]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def network_notices(network: nn.Module, algorithm: str, changed: tuple[str, ...]) -> list[str]:
    """What a person should know of a network of theirs that `algorithm` keeps in evaluation mode, a line each.
    `changed`: as `probe` gives them."""
    notices = []
    if inert := inert_layers(network):
        notices.append(
            f"network.class: {algorithm} keeps networks in evaluation mode, in learning too, where these layers do "
            f"nothing new: {shortened(inert)}; statistics stay as they are, and nothing is dropped"
        )
    if changed:
        notices.append(
            f"network.class changes its buffers whenever it is called ({shortened(changed)}): after each iteration all "
            "ranks take rank 0's, and other numbers of ranks learn something else"
        )
    return notices
