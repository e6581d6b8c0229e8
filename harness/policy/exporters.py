"""What an exported file is made by, and what it is read by."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.policy.card import KEY, Card
from harness.policy.onnx_policy import OnnxPolicy
from harness.policy.parity import Act, States

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
OPSET = 17


def inputs_of(card: Card, states: States, rows: int) -> tuple[torch.Tensor, ...]:
    """So many observations, and noise where the policy draws any."""
    seen = torch.from_numpy(states.observations[:rows])
    return (seen,) if card.noise is None else (seen, torch.zeros(rows, *card.noise["shape"]))


@torch.no_grad()
def onnx_by_tracing(graph: nn.Module, card: Card, states: States) -> bytes:
    """By torch's older exporter, which takes a tenth of a second; the check tells where a trace does not do."""
    out, inputs = io.BytesIO(), inputs_of(card, states, 2)
    names = ["observations", "noise"][: len(inputs)]
    free = {name: {0: "batch"} for name in ("observations", "actions")} | {"noise": {0: "draws"}}
    torch.onnx.export(
        graph,
        inputs,
        out,  # type: ignore[arg-type]
        input_names=names,
        output_names=["actions"],
        dynamic_axes={name: axes for name, axes in free.items() if name in (*names, "actions")},
        opset_version=OPSET,
        dynamo=False,
    )
    return finished(out.getvalue(), card)


@torch.no_grad()
def onnx_by_dynamo(graph: nn.Module, card: Card, states: States) -> bytes:
    """By torch's newer exporter, which takes seconds, and reads Python where the older one records a pass."""
    out, inputs = io.BytesIO(), inputs_of(card, states, 2)
    names = ["observations", "noise"][: len(inputs)]
    batch = torch.export.Dim("batch")
    shapes = tuple({0: batch} for _ in inputs)
    program = torch.onnx.export(
        graph, inputs, input_names=names, output_names=["actions"], dynamic_shapes=shapes, dynamo=True, verbose=False
    )
    assert program is not None
    program.save(out)  # type: ignore[arg-type]
    return finished(out.getvalue(), card)


def finished(model: bytes, card: Card) -> bytes:
    """With the card, and zeros as the noise where none is given: then the policy is deterministic."""
    import onnx

    proto = onnx.load_from_string(model)
    if card.noise is not None:
        zeros = np.zeros((1, *card.noise["shape"]), np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(zeros, "noise"))
    proto.metadata_props.add(key=KEY, value=card.text())
    proto.producer_name = "harness"
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


@torch.no_grad()
def by_torch_export(graph: nn.Module, card: Card, states: States) -> bytes:
    out, inputs = io.BytesIO(), inputs_of(card, states, 2)
    batch = torch.export.Dim("batch")
    program = torch.export.export(graph, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    torch.export.save(program, out, extra_files={f"{KEY}.json": card.text()})
    return out.getvalue()


def load_onnx(path: Path) -> Act:
    return OnnxPolicy(path).act


def load_torch(path: Path) -> Act:
    """Its inputs are all given: zeros are the noise of the deterministic policy."""
    found = {f"{KEY}.json": ""}
    module = torch.export.load(str(path), extra_files=found).module()
    card = Card.read(found[f"{KEY}.json"], str(path))

    def act(observations: np.ndarray, drawn: np.ndarray | None) -> np.ndarray:
        if drawn is None and card.noise is not None:
            drawn = np.zeros((len(observations), *card.noise["shape"]), np.float32)
        return eager(module)(observations, drawn)

    return act


def eager(module: Callable) -> Act:
    @torch.no_grad()
    def act(observations: np.ndarray, drawn: np.ndarray | None) -> np.ndarray:
        inputs = [observations] if drawn is None else [observations, drawn]
        return module(*(torch.from_numpy(np.ascontiguousarray(each)) for each in inputs)).numpy()

    return act


WAYS: dict[str, list[tuple[Callable[..., bytes], Callable[[Path], Act]]]] = {
    "onnx": [(onnx_by_tracing, load_onnx), (onnx_by_dynamo, load_onnx)],
    "torch": [(by_torch_export, load_torch)],
}
"""In this order: another way is tried where one fails, or makes a file that acts differently."""


def quietly(make: Callable[..., bytes], *arguments: Any) -> bytes:
    """Without the warnings of exporters, which are about what is checked anyway."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            return make(*arguments)
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)
