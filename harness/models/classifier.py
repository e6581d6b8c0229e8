"""Networks of supervised learning: from samples to a score for each class."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from harness.errors import BadInput
from harness.models.action_heads import ACTIVATIONS
from harness.models.probing import probe
from harness.schema import NetworkSettings


def make_classifier(settings: NetworkSettings, shape: tuple[int, ...], classes: int, user_class: Any) -> nn.Module:
    """Inputs (n, *shape) to logits (n, classes): convolutions for images (channels, height, width), else a perceptron,
    with BatchNorm between their layers; or `user_class` where the settings name one, checked on one input.
    """
    if user_class is None:
        return convolutional(settings, shape, classes) if len(shape) == 3 else perceptron(settings, shape, classes)
    where = f"network.class = {settings.class_!r}"
    try:
        model = user_class(shape, classes, **settings.kwargs)
    except TypeError as error:
        expected = "Class(input_shape, classes, **network.kwargs)"
        raise BadInput(f"{where} cannot be built as {expected}: {error}") from None
    expected = f"take inputs {(1, *shape)} and return logits {(1, classes)}"
    try:
        found = tuple(probe(model, torch.zeros(1, *shape)).outputs.shape)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise BadInput(f"{where}: forward must {expected}, but failed: {error}") from None
    if found != (1, classes):
        raise BadInput(f"{where}: forward must {expected}, got {found}")
    return model


def convolutional(settings: NetworkSettings, shape: tuple[int, ...], classes: int) -> nn.Sequential:
    channels, height, width = shape
    layers: list[nn.Module] = []
    for filters in settings.hidden:
        # no bias: BatchNorm takes it away again
        layers += [nn.Conv2d(channels, filters, 3, padding=1, bias=False), nn.BatchNorm2d(filters)]
        layers.append(ACTIVATIONS[settings.activation]())
        channels = filters
        if min(height, width) >= 4:
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, classes))


def perceptron(settings: NetworkSettings, shape: tuple[int, ...], classes: int) -> nn.Sequential:
    inputs = int(np.prod(shape))
    layers: list[nn.Module] = [nn.Flatten()]
    for width in settings.hidden:
        layers += [nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), ACTIVATIONS[settings.activation]()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))
