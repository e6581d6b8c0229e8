"""Modules, optimizers and data with what makes data-parallel training go wrong, for one process or a rank of several.

As a script it trains each case on this rank and gives what came of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from harness.training.distributed_trainer import DistributedTrainer
from tests.multirank.launch import give, join

EPOCHS = 3


@dataclass(frozen=True)
class Case:
    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: nn.Module
    loader: DataLoader


class TiedLanguageModel(nn.Module):
    """Predicts a token from the one before; the output layer's weight is the embedding's. One layer is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 6)
        self.frozen = nn.Linear(6, 6)
        self.frozen.requires_grad_(False)
        self.hidden = nn.Linear(6, 6)
        self.output = nn.Linear(6, 9)
        self.output.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.output(torch.tanh(self.hidden(self.frozen(self.embedding(tokens)))))


class Experts(nn.Module):
    """Each sample goes to the expert that its first feature names; an expert that no sample asks for is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 3) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = x.new_zeros(len(x), 3)
        for number, expert in enumerate(self.experts):
            chosen = x[:, 0] == number
            if chosen.any():
                outputs = outputs.index_put((chosen,), expert(x[chosen]))
        return outputs


def convolutions(shuffle: bool) -> Case:
    """BatchNorm twice, two parameter groups; 37 samples by 12: the last batch has one, and a rank none.

    SiLU, since a ReLU whose input is all but 0 goes one way or the other by rounding, with threads already.
    """
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.SiLU(),
        nn.Conv2d(6, 8, 3, stride=2),
        nn.BatchNorm2d(8, momentum=None),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(8 * 9, 4),
    )
    data = TensorDataset(torch.randn(37, 1, 8, 8) * 3 + 1, torch.randint(0, 4, (37,)))
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "lr": 0.02}]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    return Case(model, optimizer, nn.CrossEntropyLoss(), DataLoader(data, batch_size=12, shuffle=shuffle))


def tied_and_frozen(shuffle: bool) -> Case:
    model = TiedLanguageModel()
    tokens = torch.randint(0, 9, (26,))
    data = TensorDataset(tokens[:-1], tokens[1:])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return Case(model, optimizer, nn.CrossEntropyLoss(), DataLoader(data, batch_size=7, shuffle=shuffle))


def experts(shuffle: bool) -> Case:
    """In some batches an expert is called on one rank alone, in some on none: AdamW must then leave it as it is."""
    x = torch.randn(32, 4)
    x[:, 0] = torch.tensor([0] * 8 + [0] * 4 + [1] * 4 + [1] * 8 + [0] * 7 + [2]).float()
    data = TensorDataset(x, torch.randn(32, 3))
    model = Experts()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    return Case(model, optimizer, nn.MSELoss(), DataLoader(data, batch_size=8, shuffle=shuffle))


CASES: dict[str, Callable[[bool], Case]] = {
    "convolutions": convolutions,
    "tied_and_frozen": tied_and_frozen,
    "experts": experts,
}


def make(name: str, shuffle: bool) -> Case:
    torch.manual_seed(5)
    return CASES[name](shuffle)


def everything(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


if __name__ == "__main__":
    world, communicator = join()
    found = {}
    for name in CASES:
        for shuffle in (False, True):
            case = make(name, shuffle)
            trainer = DistributedTrainer(case.model, case.optimizer, case.loss, communicator=communicator)
            trained = [trainer.train_epoch(case.loader) for _ in range(EPOCHS)]
            found[name, shuffle] = everything(case.model), trained, trainer.test_epoch(case.loader)
    give(found)
    world.stop()
