"""A small perceptron in numpy: for a few observations its products cost less than torch's calls."""

from __future__ import annotations

import numpy as np
from torch import nn


class NumpyMLP:
    """A `Sequential` of linear layers with one kind of activation between them, in numpy; the parameters are read where
    they lie, so they are never stale."""

    ACTIVATIONS = {nn.Tanh: lambda x: np.tanh(x, out=x), nn.ReLU: lambda x: np.maximum(x, 0.0, out=x)}

    @classmethod
    def serves(cls, network: nn.Module) -> bool:
        known = (nn.Linear, *cls.ACTIVATIONS)
        return type(network) is nn.Sequential and all(type(layer) in known for layer in network)

    def __init__(self, network: nn.Sequential) -> None:
        """Views of the parameters: of an arena, they must lie there already."""
        linear = [layer for layer in network if isinstance(layer, nn.Linear)]
        self.layers = [(layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in linear]
        between = [layer for layer in network if not isinstance(layer, nn.Linear)]
        self.activation = self.ACTIVATIONS[type(between[0]) if between else nn.ReLU]
        self.activated = len(between) == len(linear)
        """Whether an activation follows the last layer too."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """float32 (n, inputs) to (n, outputs)"""
        last = len(self.layers) - 1
        for number, (weight, bias) in enumerate(self.layers):
            x = np.dot(x, weight)
            x += bias
            if number < last or self.activated:
                self.activation(x)
        return x
