"""What people bring to DistributedTrainer: losses with denominators of their own, collate functions that leave samples
out, batches in containers, optimizers with options, for one process or a rank of several.

As a script it trains each case on this rank and gives what came of it.
"""

from __future__ import annotations

import random
import warnings
from collections import namedtuple
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from harness import DistributedTrainer, LossSum
from tests.multirank.launch import give, join

EPOCHS, BATCH, PADDING = 2, 8, -100


@dataclass
class Case:
    model: nn.Module
    loss: Callable[..., Any]
    loader: Iterable[Any]
    optimizer: Callable[[Any], torch.optim.Optimizer] = partial(torch.optim.SGD, lr=0.3)
    options: dict[str, Any] = field(default_factory=dict)
    samples: int | None = None
    """Of an epoch, where not all of the dataset's count."""


def rows(samples: int = 44) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(samples, 5), torch.randint(0, 3, (samples,))


def loader_of(*tensors: torch.Tensor, **options: Any) -> DataLoader:
    return DataLoader(TensorDataset(*tensors), batch_size=BATCH, **options)


def padded(targets: torch.Tensor) -> torch.Tensor:
    """Targets of which every second share of a batch is padding alone, and one batch as a whole."""
    targets = targets.clone()
    for start in range(0, len(targets), BATCH):
        targets[start + BATCH // 2 : start + BATCH] = PADDING
    targets[BATCH : 2 * BATCH] = PADDING
    targets[2] = PADDING
    return targets


def of_targets(loss: Callable[..., Any], pad: bool = True) -> Case:
    x, y = rows()
    return Case(nn.Linear(5, 3), loss, loader_of(x, padded(y) if pad else y))


def tokens() -> Case:
    """Sentences of different lengths; the batch is padded to the longest in it."""
    sentences = [torch.randint(1, 9, (length,)) for length in [1, 2, 11, 7, 3, 3, 12, 1] * 4]

    def collate(batch: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        whole = nn.utils.rnn.pad_sequence(batch, batch_first=True)
        nexts = [functional.pad(sentence[1:], (0, 1), value=PADDING) for sentence in batch]
        return whole, nn.utils.rnn.pad_sequence(nexts, batch_first=True, padding_value=PADDING)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(9, 6), nn.Linear(6, 9)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.embedding(x)).transpose(1, 2)

    return Case(Model(), nn.CrossEntropyLoss(), DataLoader(sentences, batch_size=BATCH, collate_fn=collate))


def several_terms() -> Case:
    """Two heads whose targets are padded in different places, and a penalty on the outputs."""

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        one = functional.cross_entropy(outputs[:, :3], targets[:, 0])
        two = functional.cross_entropy(outputs[:, 3:], targets[:, 1], weight=torch.tensor([1.0, 5.0, 1.0]))
        return one + 0.5 * two + 0.1 * outputs.square().mean()

    x, y = rows()
    other = torch.where(torch.rand(44) < 0.6, PADDING, y)
    return Case(nn.Linear(5, 6), loss, loader_of(x, torch.stack([padded(y), other], dim=1)))


def masked_mean(outputs: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    losses = (outputs - batch[:, :3]).square().mean(dim=1)
    return (losses * batch[:, 3]).sum() / batch[:, 3].sum()


def selected(outputs: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    chosen = batch[:, 3] > 0
    return functional.mse_loss(outputs[chosen], batch[:, :3][chosen])


def weighted(outputs: torch.Tensor, batch: torch.Tensor) -> LossSum:
    losses = functional.l1_loss(outputs, batch[:, :3], reduction="none").sum(dim=1)
    return LossSum((losses * batch[:, 3]).sum(), batch[:, 3].sum())


def with_mask(loss: Callable[..., Any]) -> Case:
    x, _ = rows()
    mask = torch.ones(44)
    mask[torch.arange(44) % 8 > 2] = 0.0
    return Case(nn.Linear(5, 3), loss, loader_of(x, torch.cat([torch.randn(44, 3), mask[:, None]], dim=1)))


class GivesLoss(nn.Module):
    """Computes its own loss, as language models do that are handed labels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.layer(inputs)
        return {"logits": logits, "loss": functional.cross_entropy(logits, labels)}


class Rows(Dataset):
    """Samples, some of which are broken."""

    def __init__(self, broken: set[int]) -> None:
        self.x, self.y = rows()
        self.broken = broken

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> Any:
        return None if index % BATCH in self.broken else (self.x[index], self.y[index])


def whole_ones(batch: list[Any]) -> Any:
    return default_collate([row for row in batch if row is not None])


def whole_ones_if_any(batch: list[Any]) -> Any:
    left = [row for row in batch if row is not None]
    return default_collate(left) if left else None


def left_out(collate: Callable[[list[Any]], Any], broken: set[int], model: nn.Module | None = None) -> Case:
    dataset = Rows(broken)
    samples = sum(row is not None for row in (dataset[index] for index in range(len(dataset))))
    loader = DataLoader(dataset, batch_size=BATCH, collate_fn=collate)
    return Case(model or nn.Linear(5, 3), functional.cross_entropy, loader, samples=samples)


Pair = namedtuple("Pair", "inputs targets")


@dataclass
class Labelled:
    inputs: torch.Tensor
    labels: torch.Tensor


class OfLabelled(nn.Linear):
    def forward(self, batch: Labelled) -> torch.Tensor:  # type: ignore[override]
        return super().forward(batch.inputs)


class OfPacked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.GRU(1, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, packed: PackedSequence) -> torch.Tensor:
        return self.head(self.memory(packed)[1][0]).squeeze(-1)


def last_element(outputs: torch.Tensor, packed: PackedSequence) -> torch.Tensor:
    padded_batch, lengths = pad_packed_sequence(packed)
    return functional.mse_loss(outputs, padded_batch[lengths - 1, torch.arange(len(lengths)), 0])


def in_container(kind: str) -> Case:
    x, y = rows()
    data = TensorDataset(x, y)
    if kind == "namedtuple":
        loader = DataLoader(data, batch_size=BATCH, collate_fn=lambda batch: Pair(*default_collate(batch)))
        return Case(nn.Linear(5, 3), functional.cross_entropy, loader)
    if kind == "dataclass":
        loader = DataLoader(data, batch_size=BATCH, collate_fn=lambda batch: Labelled(*default_collate(batch)))
        return Case(OfLabelled(5, 3), lambda outputs, batch: functional.cross_entropy(outputs, batch.labels), loader)
    if kind == "packed":
        sequences = [torch.randn(length, 1) for length in [1, 4, 2, 5, 3] * 5]
        loader = DataLoader(
            sequences, batch_size=BATCH, collate_fn=lambda batch: pack_sequence(batch, enforce_sorted=False)
        )
        return Case(OfPacked(), last_element, loader)
    loader = DataLoader([{"inputs": a, "labels": b} for a, b in data], batch_size=BATCH)
    return Case(GivesLoss(), lambda outputs, batch: outputs["loss"], loader)


class Critic(nn.Module):
    """Gives its gradient too, for a penalty on it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            out = self.net(x).squeeze(-1)
            return out, torch.autograd.grad(out.sum(), x, create_graph=True)[0]


def penalty(outputs: tuple[torch.Tensor, torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
    out, gradient = outputs
    return (out - targets).square() + 0.5 * (gradient.norm(dim=1) - 1).square()


def penalized() -> Case:
    x, y = rows()
    return Case(Critic(), penalty, loader_of(x, y.float()), partial(torch.optim.SGD, lr=0.05))


def frozen_backbone() -> Case:
    backbone = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8)).requires_grad_(False).eval()
    x, y = rows()
    return Case(nn.Sequential(backbone, nn.Linear(8, 3)), functional.cross_entropy, loader_of(x * 2 + 3, y))


def normalized_padding() -> Case:
    """What is padding does not count in the loss, but it does in BatchNorm's statistics."""
    x, y = rows()
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    loss = nn.CrossEntropyLoss(label_smoothing=0.1, weight=torch.tensor([1.0, 2.0, 4.0]))
    return Case(model, loss, loader_of(x, padded(y)))


def one_parameter(**options: Any) -> Case:
    x, _ = rows()
    target = x @ torch.tensor([1.0, -2.0, 3.0, 0.5, 0.0])
    optimizer = partial(torch.optim.Adam, lr=0.1, fused=True, **options)
    model = nn.Linear(5, 1, bias=False)
    return Case(model, lambda o, t: (o.squeeze(-1) - t).square().mean(), loader_of(x, target), optimizer)


class WithExtraState(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"scale": np.float64(2.0), "made by": lambda: None}

    def set_extra_state(self, state: Any) -> None:
        self.scale = state["scale"]


def numpy_state() -> Case:
    x, y = rows()
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), WithExtraState(8, 3))
    rates = np.logspace(-2, -1, 2)
    groups = [{"params": [*layer.parameters()], "lr": rate} for layer, rate in zip((model[0], model[2]), rates)]
    return Case(model, functional.cross_entropy, loader_of(x, y), lambda _: torch.optim.AdamW(groups, weight_decay=0.1))


class Buffers(nn.Module):
    """Of every sort, none of which the outputs depend on in a way that a share changes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("unsaved", torch.randn(3), persistent=False)
        self.register_buffer("expanded", torch.ones(1).expand(4))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("waves", torch.ones(2, dtype=torch.complex64))
        self.register_buffer("nothing", None)
        self.register_buffer("halves", torch.ones(3, dtype=torch.bfloat16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.calls += 1
        return self.layer(x) * self.unsaved * self.expanded[0]


class Seldom(nn.Module):
    """Some parameters are reached by some batches alone, one by none; a weight is tied."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(2))
        self.tied = nn.Linear(5, 5)
        self.tied.weight = self.layers[0].weight
        self.never = nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for number, layer in enumerate(self.layers):
            asking = x[:, :1] > number
            if bool(asking.any()):
                x = torch.where(asking, torch.tanh(layer(x)), x)
        return self.tied(x)[:, :3]


def plain_rows(model: nn.Module, optimizer: Any = partial(torch.optim.SGD, lr=0.3), **options: Any) -> Case:
    x, y = rows()
    return Case(model, functional.cross_entropy, loader_of(x, y), optimizer, options)


def several_batches() -> Case:
    x, y = rows(64)
    return Case(nn.Linear(5, 3), nn.CrossEntropyLoss(), loader_of(x, padded(y)), options={"accumulate_grad_batches": 4})


WEIGHTS = torch.tensor([1.0, 1.0, 20.0])
CASES: dict[str, Callable[[], Case]] = {
    "class weights": lambda: of_targets(nn.CrossEntropyLoss(weight=WEIGHTS), pad=False),
    "class weights, padding and smoothing": lambda: of_targets(nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.2)),
    "padding": lambda: of_targets(nn.CrossEntropyLoss()),
    "padding, by a partial": lambda: of_targets(partial(functional.cross_entropy, ignore_index=PADDING)),
    "padding, by a lambda": lambda: of_targets(lambda o, t: functional.cross_entropy(o, t, WEIGHTS).mean()),
    "padding, in log-probabilities": lambda: of_targets(lambda o, t: nn.NLLLoss(WEIGHTS)(o.log_softmax(-1), t)),
    "tokens": tokens,
    "several terms": several_terms,
    "a masked mean": lambda: with_mask(masked_mean),
    "selected elements": lambda: with_mask(selected),
    "sample weights": lambda: with_mask(weighted),
    "one loss for each sample": lambda: of_targets(nn.CrossEntropyLoss(reduction="none"), pad=False),
    "samples left out": lambda: left_out(whole_ones, {4, 5, 6}),
    "shares left out": lambda: left_out(whole_ones, {4, 5, 6, 7}),
    "shares left out, of a network that normalises": lambda: left_out(
        whole_ones, {4, 5, 6, 7}, nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    ),
    "shares left out as None": lambda: left_out(whole_ones_if_any, {0, 1, 2, 3}),
    "a mapping, and a loss in the model": lambda: in_container("mapping"),
    "a namedtuple": lambda: in_container("namedtuple"),
    "a dataclass": lambda: in_container("dataclass"),
    "a packed sequence": lambda: in_container("packed"),
    "a gradient penalty through BatchNorm": penalized,
    "a frozen backbone": frozen_backbone,
    "padding in BatchNorm": normalized_padding,
    "one parameter": one_parameter,
    "amsgrad": lambda: one_parameter(amsgrad=True),
    "maximize": lambda: one_parameter(maximize=True, weight_decay=1.0),
    "numpy in states": numpy_state,
    "buffers": lambda: plain_rows(Buffers()),
    "seldom reached": lambda: plain_rows(Seldom(), partial(torch.optim.AdamW, lr=0.05, weight_decay=0.5)),
    "several batches a step": several_batches,
}


def make(name: str) -> Case:
    torch.manual_seed(6)
    return CASES[name]()


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def train(name: str, communicator: Any) -> dict[str, Any]:
    case = make(name)
    steps: list[int] = []
    optimizer = case.optimizer(case.model.parameters())
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    trainer = DistributedTrainer(case.model, optimizer, case.loss, communicator=communicator, **case.options)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    torch.manual_seed(3 + communicator.rank)
    trained = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(EPOCHS):
            trained.append(trainer.train_epoch(case.loader))
            scheduler.step()
        tested = trainer.test_epoch(case.loader)
    return {
        "state": state_of(case.model),
        "trained": trained,
        "tested": tested,
        "steps": len(steps),
        "told": [str(warning.message) for warning in warned],
        "random": (torch.rand(1).item(), random.getstate()[1][:3]),
    }


# ---- what is refused: on all ranks, before anything has been learned


def fails_here(rank: int) -> Callable[..., Any]:
    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if rank == 1:
            raise KeyError("label 7")
        return functional.cross_entropy(outputs, targets)

    return loss


REFUSED: dict[str, tuple[Callable[[int], Callable[..., Any]], str]] = {
    "a loss over pairs": (lambda _: lambda o, t: (o @ o.T).softmax(-1).diagonal().log().mean().neg(), "LossSum"),
    "a sum": (lambda _: lambda o, t: functional.cross_entropy(o, t, reduction="none").sum(), "is not the mean"),
    "None": (lambda _: lambda o, t: None, "it gave NoneType"),
    "a number": (lambda _: lambda o, t: 0.5, "it gave float"),
    "whole numbers": (lambda _: lambda o, t: (o.argmax(-1) == t).sum(), "it gave a tensor of torch.int64"),
    "no gradient": (lambda _: lambda o, t: (o.argmax(-1) == t).float(), "has no gradient"),
    "one rank fails": (fails_here, "label 7"),
}


def refuse(name: str, communicator: Any) -> dict[str, Any]:
    torch.manual_seed(6)
    x, y = rows()
    model = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3))
    trainer = DistributedTrainer(model, "sgd", REFUSED[name][0](communicator.rank), communicator=communicator)
    before, generator = state_of(model), torch.get_rng_state()
    try:
        trainer.train_epoch(loader_of(x, y))
        raised = "nothing"
    except Exception as error:
        raised = f"{type(error).__name__}: {error}"
    same = all(torch.equal(before[key], value) for key, value in state_of(model).items())
    return {"told": raised, "untouched": same and torch.equal(generator, torch.get_rng_state())}


def step_by_step(communicator: Any) -> dict[str, Any]:
    """Two networks that learn in turn, a batch at a time."""
    torch.manual_seed(6)
    x, y = rows(40)
    models = [nn.Linear(5, 3), nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 3))]
    trainers = [
        DistributedTrainer(m, torch.optim.SGD(m.parameters(), lr=0.1), nn.CrossEntropyLoss(), communicator=communicator)
        for m in models
    ]
    losses = []
    for batch in trainers[0].batches(loader_of(x, y)):
        losses += [trainer.train_batch(batch).loss for trainer in trainers]
    for trainer in trainers:
        trainer.settle()
    return {"states": [state_of(model) for model in models], "losses": losses}


if __name__ == "__main__":
    world, own = join()
    given = {
        "trained": {name: train(name, own) for name in CASES},
        "refused": {name: refuse(name, own) for name in REFUSED},
        "step by step": step_by_step(own),
    }
    give(given)
    world.stop()
