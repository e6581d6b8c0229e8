"""Training and evaluation mode of a model, some of whose modules its owner keeps in evaluation mode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


class Modes:
    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.in_evaluation: list[nn.Module] = []
        """Modules that the user has put into evaluation mode, in a model that trains."""

    def train(self) -> None:
        """Training mode, but for modules that the user has put into evaluation mode while the model as a whole was in
        training mode."""
        if self.model.training:
            self.in_evaluation = [module for module in self.model.modules() if not module.training]
        self.model.train()
        for module in self.in_evaluation:
            module.training = False

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode, and then for each module the mode that it had."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
