"""What supervised learning learns from: samples in three splits, normalised and augmented the same on any number of
ranks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset

from harness.algorithms.settings.supervised import DIGITS_SHAPE
from harness.errors import BadInput
from harness.randomness import generator
from harness.settings import named_object

SPLIT_SEED = 0
"""Of the digits' splits: runs of all seeds are measured on the same test samples."""
LARGEST_ANGLE, LARGEST_SHIFT = 10.0, 1.0
"""Of the augmentation: degrees to either side, pixels along each axis."""


@dataclass(frozen=True)
class Datasets:
    train: Dataset
    validation: Dataset
    test: Dataset
    shape: tuple[int, ...]
    """Of one input."""
    classes: int


class Samples(Dataset):
    """Inputs float32 (n, *shape) and targets int64 (n,), handed out by the batch.

    With `augment_seed`, images (n, channels, height, width) are turned and shifted as they are handed out, by amounts
    that follow from that seed, the `epoch` and the sample's index.
    """

    def __init__(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.inputs, self.targets = inputs, targets
        self.augment_seed: int | None = None
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, targets = self.__getitems__([index])
        return inputs[0], targets[0]

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.as_tensor(indices)
        inputs = self.inputs[rows]
        if self.augment_seed is not None:
            amounts = generator(self.augment_seed, "augmentation", self.epoch).uniform(-1.0, 1.0, (len(self), 3))
            inputs = turned_and_shifted(inputs, torch.from_numpy(amounts[indices]).float())
        return inputs, self.targets[rows]


def turned_and_shifted(images: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Each image (n, channels, height, width) by its `amounts` (n, 3) in [-1, 1]: of the angle, of the shift right and
    down. The border's values fill what comes into view.
    """
    height, width = images.shape[-2:]
    angles = amounts[:, 0] * math.radians(LARGEST_ANGLE)
    shifts = amounts[:, 1:] * LARGEST_SHIFT * 2.0 / torch.tensor([width, height])  # the grid spans [-1, 1]
    aspect = height / width
    rows = torch.stack([angles.cos(), -angles.sin() * aspect, shifts[:, 0]], dim=1)
    columns = torch.stack([angles.sin() / aspect, angles.cos(), shifts[:, 1]], dim=1)
    grid = nn.functional.affine_grid(torch.stack([rows, columns], dim=1), list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def as_they_are(batch: Any) -> Any:
    return batch


def make_loader(split: Dataset, batches: int | BatchSampler) -> DataLoader:
    """`batches`: their size, in the order of the split, or what draws them."""
    collate = as_they_are if isinstance(split, Samples) else None
    if isinstance(batches, int):
        return DataLoader(split, batch_size=batches, collate_fn=collate)
    return DataLoader(split, batch_sampler=batches, collate_fn=collate)


def load_datasets(name: str) -> Datasets:
    """`digits`, or what the `module:function` of the user returns.

    That is a training, a validation and a test split, each of them (inputs, targets) as arrays, or a map-style Dataset
    of such pairs. Arrays are normalised by the moments of the training split, for each channel of images; a Dataset
    does that by itself, and names its `classes`, as torchvision's do.
    """
    if name == "digits":
        return normalised(*digits())
    returned = named_object(name, "algorithm.dataset")()
    where = f"algorithm.dataset = {name!r}"
    if not isinstance(returned, (list, tuple)) or len(returned) != 3:
        raise BadInput(f"{where} must return three splits (train, validation, test), got {type(returned).__name__}")
    if all(isinstance(split, Dataset) for split in returned):
        train, validation, test = returned
        if not hasattr(train, "classes"):
            raise BadInput(f"{where}: a Dataset must have `classes`, the list of their names")
        return Datasets(train, validation, test, tuple(train[0][0].shape), len(train.classes))
    try:
        arrays = [Samples(as_inputs(inputs), as_targets(targets)) for inputs, targets in returned]
    except (TypeError, ValueError) as error:
        raise BadInput(f"{where}: each split must be (inputs, targets) as arrays, or a Dataset: {error}") from None
    for split, samples in zip(("training", "validation", "test"), arrays):
        if not len(samples) or len(samples.inputs) != len(samples):
            counts = f"{len(samples.inputs)} inputs and {len(samples)} targets"
            raise BadInput(f"{where}: the {split} split must have a target for each input, one at least; got {counts}")
    return normalised(*arrays)


def as_inputs(values: Any) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.float32))


def as_targets(values: Any) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.int64))


def digits() -> list[Samples]:
    """The 1,797 handwritten digits that come with scikit-learn, 8x8 pixels: 1,077 to learn from, 360 and 360 to be
    judged by, every digit with the same share of each.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    rest, test = train_test_split(np.arange(len(labels)), test_size=360, random_state=SPLIT_SEED, stratify=labels)
    train, validation = train_test_split(rest, test_size=360, random_state=SPLIT_SEED, stratify=labels[rest])
    images = images.reshape(-1, *DIGITS_SHAPE)
    return [Samples(as_inputs(images[part]), as_targets(labels[part])) for part in (train, validation, test)]


def normalised(train: Samples, validation: Samples, test: Samples) -> Datasets:
    """All of them centred and scaled by the mean and deviation of the training split."""
    shape = tuple(train.inputs.shape[1:])
    over = [0, 2, 3] if len(shape) == 3 else [0]
    deviation, mean = torch.std_mean(train.inputs.double(), over, correction=0, keepdim=True)
    deviation = torch.where(deviation > 0, deviation, 1.0)
    for split in (train, validation, test):
        split.inputs = ((split.inputs - mean) / deviation).float()
    classes = 1 + max(int(split.targets.max()) for split in (train, validation, test))
    return Datasets(train, validation, test, shape, classes)
