"""Statistics that a module gathers while it trains, over ranks: BatchNorm's, and other buffers."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from harness.distributed.agreement import pack, put, unpack
from harness.distributed.transports.base import Communicator


class GlobalBatchNorm:
    """While it is open, BatchNorm layers of `model` that normalise by their batch do so by that of all ranks.

    The layers are lent another `forward` and get their own back: copies, checkpoints and exports of the model know
    nothing of it. Each such layer costs one small all-reduce in the forward pass and one in the backward pass, so all
    ranks must come through these layers in the same order, as often as each other: a rank without samples goes through
    the model with stand-ins for them, and `counted` off. Layers with a `forward` of their own are left as they are.

    With one rank nothing is changed: torch's own BatchNorm runs.
    """

    def __init__(self, model: nn.Module, communicator: Communicator, enabled: bool = True) -> None:
        self.communicator = communicator
        self.counted = True
        """Whether the samples that come now count; stand-ins do not."""
        self.apart = False
        """Whether what comes now is only looked at: nothing is reduced, nothing normalised and no statistic kept."""
        self.layers: list[_BatchNorm] = []
        """The layers that reduce over the ranks."""
        if enabled and communicator.size > 1:
            batch_norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
            self.layers = [layer for layer in batch_norms if normalises_by_batch(layer)]

    def __enter__(self) -> GlobalBatchNorm:
        for layer in self.layers:
            layer.forward = functools.partial(self.normalize, layer)  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        for layer in self.layers:
            del layer.forward

    def normalize(self, layer: _BatchNorm, inputs: torch.Tensor) -> torch.Tensor:
        layer._check_input_dim(inputs)
        if self.apart:
            zeros, ones = (fill(inputs.shape[1], device=inputs.device) for fill in (torch.zeros, torch.ones))
            return functional.batch_norm(inputs, zeros, ones, layer.weight, layer.bias, False, 0.0, layer.eps)
        outputs, mean, variance, count = Normalize.apply(inputs, layer.weight, layer.bias, layer.eps, self)
        if layer.training and layer.running_mean is not None and layer.running_var is not None:
            assert layer.num_batches_tracked is not None
            layer.num_batches_tracked.add_(1)
            momentum = 1.0 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
            with torch.no_grad():
                layer.running_mean.mul_(1.0 - momentum).add_(mean, alpha=momentum)
                layer.running_var.mul_(1.0 - momentum).add_(variance * (count / (count - 1.0)), alpha=momentum)
        return outputs


def normalises_by_batch(layer: _BatchNorm) -> bool:
    plain = type(layer).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward) and "forward" not in vars(layer)
    return plain and (layer.training or layer.running_mean is None)


class Normalize(torch.autograd.Function):
    """Batch normalisation (Ioffe and Szegedy 2015, algorithm 1) over the samples of all ranks.

    Gradients that come in are those of the loss over all ranks' samples, and so are those that go out: the sums that
    the mean and variance carry back are taken over all ranks, while those of weight and bias stay this rank's part,
    which the step reduces with all other gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        eps: float,
        norm: GlobalBatchNorm,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
        x = inputs.float()
        channels = x.shape[1]
        over = [dim for dim in range(x.dim()) if dim != 1]
        shape = [1, channels, *[1] * (x.dim() - 2)]
        # float64: a difference of large sums in float32 would lose a variance that is small beside the mean
        sums = torch.zeros(1 + 2 * channels, dtype=torch.float64, device=x.device)
        if norm.counted and x.numel():
            variance, mean = (part.double() for part in torch.var_mean(x, over, correction=0))
            count = x.numel() // channels
            sums[0] = count
            sums[1 : 1 + channels] = count * mean
            sums[1 + channels :] = count * (variance + mean.square())
        norm.communicator.all_reduce_(sums, name="batch_norm")
        total = float(sums[0])
        if total < 2:
            raise ValueError(
                f"BatchNorm needs more than one value per channel in training, got {total:.0f} on all ranks"
            )
        first, second = (sums[1:] / total).view(2, channels)
        mean, variance = first.float(), (second - first.square()).clamp_(min=0.0).float()
        affine = as_floats(weight), as_floats(bias)
        outputs = functional.batch_norm(x, mean, variance, *affine, False, 0.0, eps)
        ctx.save_for_backward(inputs, weight, bias, mean, (variance + eps).rsqrt())
        ctx.norm, ctx.counted, ctx.total, ctx.over, ctx.shape, ctx.eps = norm, norm.counted, total, over, shape, eps
        ctx.mark_non_differentiable(mean, variance)
        return outputs.to(inputs.dtype), mean, variance, total

    @staticmethod
    def backward(ctx: Any, gradients: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        inputs, weight, bias, mean, scale = ctx.saved_tensors
        if torch.is_grad_enabled():  # this gradient will be differentiated, by a penalty on it
            return *differentiable_gradients(ctx, inputs, weight, bias, gradients), None, None
        g = gradients.float()
        normal = (inputs.float() - mean.view(ctx.shape)).mul_(scale.view(ctx.shape))
        own = torch.stack([g.sum(ctx.over), (g * normal).sum(ctx.over)])
        if not ctx.counted:
            own.zero_()
        of_bias, of_weight = own[0].clone(), own[1].clone()
        of_inputs = None
        if ctx.needs_input_grad[0]:
            ctx.norm.communicator.all_reduce_(own, name="batch_norm_gradient")
            if ctx.counted:
                mean_g, mean_gx = (part.view(ctx.shape) for part in own / ctx.total)
                factor = (scale if weight is None else scale * weight).view(ctx.shape)
                of_inputs = (factor * (g - mean_g - normal * mean_gx)).to(gradients.dtype)
            else:
                of_inputs = torch.zeros_like(gradients)
        return (
            of_inputs,
            None if weight is None else of_weight,
            of_bias if ctx.needs_input_grad[2] else None,
            None,
            None,
        )


def as_floats(values: torch.Tensor | None) -> torch.Tensor | None:
    return None if values is None else values.float()


class SumOverRanks(torch.autograd.Function):
    """The sum of all ranks' `values`; all ranks differentiate it, as often as each other: their gradients add up."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, norm: GlobalBatchNorm) -> torch.Tensor:
        ctx.norm = norm
        return norm.communicator.all_reduce_(values.clone(), name="batch_norm_sums")

    @staticmethod
    def backward(ctx: Any, gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return SumOverRanks.apply(gradients.contiguous(), ctx.norm), None


def differentiable_gradients(
    ctx: Any, inputs: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, gradients: torch.Tensor
) -> tuple[torch.Tensor | None, ...]:
    """What `Normalize.backward` computes, as operations that autograd can differentiate."""
    counted = float(ctx.counted)
    x, g = inputs.float(), gradients.float() * counted
    exact = inputs.double()
    moments = torch.stack([exact.sum(ctx.over), exact.square().sum(ctx.over)]) * counted
    mean, square = SumOverRanks.apply(moments, ctx.norm) / ctx.total
    scale = ((square - mean.square()).clamp(min=0.0) + ctx.eps).rsqrt().float()
    normal = (x - mean.float().view(ctx.shape)) * scale.view(ctx.shape)
    own = torch.stack([g.sum(ctx.over), (g * normal).sum(ctx.over)])
    of_inputs = None
    if ctx.needs_input_grad[0]:
        mean_g, mean_gx = (part.view(ctx.shape) for part in SumOverRanks.apply(own, ctx.norm) / ctx.total)
        factor = (scale if weight is None else scale * weight).view(ctx.shape)
        of_inputs = (factor * (g - mean_g - normal * mean_gx)).to(gradients.dtype) * counted
    return (
        of_inputs,
        None if weight is None else own[1],
        own[0] if ctx.needs_input_grad[2] else None,
    )


def agree_on_buffers(
    model: nn.Module, communicator: Communicator, samples: int, agreed: Collection[nn.Module] = ()
) -> list[str]:
    """Makes the buffers of `model` equal on all ranks, and returns the names of those that had to be made so.

    Running means and variances become the ranks' average, weighted by the `samples` that each rank has seen; all other
    buffers become rank 0's where they differ, of whatever shape and kind they are. Those of the modules `agreed` are
    equal already. Averages are no surprise: their names are not among those returned.
    """
    if communicator.size == 1:
        return []
    statistics: list[torch.Tensor] = []
    others: dict[str, tuple[nn.Module, str, torch.Tensor]] = {}
    for path, module in model.named_modules():
        if module in agreed:
            continue
        for name, buffer in module.named_buffers(recurse=False):
            if isinstance(module, _NormBase) and name in ("running_mean", "running_var"):
                statistics.append(buffer)
            else:
                others[f"{path}.{name}" if path else name] = module, name, buffer
    if statistics:
        weighted = [torch.tensor([float(samples)], dtype=torch.float64, device=statistics[0].device)]
        weighted += [buffer.double().view(-1) * samples for buffer in statistics]
        flat = communicator.all_reduce_(torch.cat(weighted), name="statistics")
        if flat[0]:
            parts = (flat[1:] / flat[0]).split([buffer.numel() for buffer in statistics])
            for buffer, part in zip(statistics, parts):
                buffer.copy_(part.view_as(buffer))
    digests = communicator.gather_objects({path: digest(buffer) for path, (_, _, buffer) in others.items()})
    differing = [path for path in digests[0] if any(rank.get(path) != digests[0][path] for rank in digests)]
    if differing:
        own = {path: pack(others[path][2].detach()) for path in differing} if communicator.rank == 0 else None
        for path, content in communicator.broadcast_object(own).items():
            parent, _, name = path.rpartition(".")
            put(model.get_submodule(parent), name, unpack(content))
    return differing


def digest(buffer: torch.Tensor) -> int:
    """Of its shape, its kind and its bytes."""
    if buffer.layout is torch.strided and not buffer.is_quantized and not buffer.is_nested:
        flat = buffer.detach().cpu().contiguous().view(-1)
        content = flat.view(torch.uint8).numpy().tobytes()
        return zlib.crc32(f"{buffer.dtype} {tuple(buffer.shape)}".encode() + content)
    return zlib.crc32(pack(buffer.detach().cpu()))
