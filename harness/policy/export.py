"""`export(RUN_DIR)`: a trained policy as one file that acts without this project, checked before it gets its name."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from harness.config import load_run_config
from harness.errors import BadInput
from harness.files import plain, write_json
from harness.lifecycle.result import read_result, versions
from harness.policy.card import KEY, Card, beside, describe_actions, describe_observations
from harness.policy.ensemble import HOWS, How, ensemble_of
from harness.policy.graph import graph_of
from harness.policy.onnx_policy import OnnxPolicy
from harness.policy.parity import Act, States, compare, visit
from harness.policy.policy import Policy, Which, load_run

Format = Literal["onnx", "torch"]
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
OPSET = 17
STATES = 1_000
"""Of real episodes that a file is checked on."""


@dataclass(frozen=True)
class Exported:
    path: Path
    card: Card


def export(
    run_dirs: Path | str | Sequence[Path | str],
    which: Which = "latest",
    format: Format = "onnx",
    output: Path | str | None = None,
    ensemble: How | None = None,
    states: int = STATES,
) -> Exported:
    """Writes the policy of a run, or an `ensemble` of the policies of several, to `output` (RUN_DIR/policy.onnx or
    .pt2), and what the file says of itself to a JSON file beside it.

    Before that the file acts on `states` of real episodes; BadInput where it does so differently from the policy, or
    the policy cannot be exported.
    """
    directories = [Path(each) for each in ([run_dirs] if isinstance(run_dirs, (str, Path)) else run_dirs)]
    if format not in SUFFIXES:
        raise BadInput(f"--format must be one of {', '.join(SUFFIXES)}, got {format!r}")
    if ensemble is not None and ensemble not in HOWS:
        raise BadInput(f"--ensemble must be one of {', '.join(HOWS)}, got {ensemble!r}")
    if len(directories) > 1 and ensemble is None:
        raise BadInput(f"{len(directories)} runs make one file only with --ensemble mean or vote")
    for module in ("onnx", "onnxruntime") if format == "onnx" else ():
        if find_spec(module) is None:
            raise BadInput(f"--format onnx needs the extra 'export': pip install -e '.[export]' (no {module})")
    policies = [load_run(directory, which) for directory in directories]
    cards = [card_of(policy, directory, which) for policy, directory in zip(policies, directories)]
    for card, directory in zip(cards, directories):
        if (card.observations, card.actions) != (cards[0].observations, cards[0].actions):
            raise BadInput(f"{directory} has other spaces than {directories[0]}: they make no ensemble")
    graphs: list[Any] = [graph_of(policy) for policy in policies]
    if ensemble is not None:
        members = [card.as_json() for card in cards]
        cards[0] = replace(cards[0], noise=None, returns=None, ensemble=ensemble, members=members)
        joined: Any = ensemble_of(graphs, ensemble, [str(each) for each in directories])
    else:
        joined = graphs[0]
    path = Path(output) if output is not None else directories[0] / f"{ensemble or 'policy'}{SUFFIXES[format]}"
    if path.is_dir() or not path.parent.is_dir():
        raise BadInput(f"--output {path} must be a file in a folder that is there")
    visited = [visit(policy, states if ensemble is None else -(-states // len(policies))) for policy in policies]
    for policy, graph, seen in zip(policies, graphs, visited):  # the graph, before any exporter has seen it
        compare(graph, policy.environments.action_space, policy.act, eager(graph), seen)
    return write(path, format, joined, cards[0], policies[0], visited)


def write(path: Path, format: Format, graph: Any, card: Card, policy: Policy, visited: list[States]) -> Exported:
    """The file, checked on the states; written aside, and renamed last."""
    observations = np.concatenate([each.observations for each in visited])
    states = States(observations, None if card.noise is None else visited[0].noise)
    reference = policy.act if card.ensemble is None else eager(graph)
    problems: list[str] = []
    aside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        for make, load in WAYS[format]:
            try:
                aside.write_bytes(quietly(make, graph, card, states))
                parity = compare(graph, policy.environments.action_space, reference, load(aside), states)
            except BadInput as error:
                problems.append(str(error))
            except Exception as error:  # of an exporter, at a network of the user's
                problems.append(f"{make.__name__}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
            else:
                break
        else:
            raise BadInput(f"the policy cannot be exported as {format}: {'; '.join(problems)}")
        card = replace(card, checked=asdict(parity))
        write_json(beside(path), card.as_json())
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.replace(path)
    except OSError as error:
        raise BadInput(f"--output {path} cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
    return Exported(path, card)


# -- what a file is made by, and what it is read by --------------------------------------------------------------------


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
        out,
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
    program.save(out)
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


# -- what the file says of itself --------------------------------------------------------------------------------------


def card_of(policy: Policy, run_dir: Path, which: Which) -> Card:
    config, noise, environments = policy.config, policy.drawn_from, policy.environments
    assert config.env is not None
    return Card(
        observations=describe_observations(environments.observation_space),
        actions=plain(describe_actions(environments.action_space)),
        noise=None if noise is None else {"kind": noise.kind, "shape": list(noise.shape), "every": noise.every},
        algorithm=config.algorithm.name,
        preset=config.run.name,
        seed=config.seed,
        which=which,
        env_steps=policy.env_steps,
        env=config.to_table()["env"],
        max_steps=config.evaluation.max_steps,
        returns=returns_of(run_dir, policy.env_steps),
        versions=versions(),
        git_commit=getattr(read_result(run_dir), "git_commit", None),
    )


def returns_of(run_dir: Path, env_steps: int) -> dict[str, Any] | None:
    """Of the policy after so many steps: of the run's final evaluation, or of that which is in its metrics."""
    result = read_result(run_dir)
    if result is not None and result.env_steps == env_steps and result.eval_return_mean is not None:
        return with_interval(result.eval_return_mean, result.eval_return_std or 0.0, result.eval_episodes)
    metrics = run_dir / "metrics.jsonl"
    episodes = load_run_config(str(run_dir / "config.toml")).evaluation.episodes
    for line in metrics.read_text().splitlines() if metrics.is_file() else ():
        with suppress(ValueError, KeyError, TypeError):
            found = json.loads(line)
            if found["env_steps"] == env_steps and found["eval_return_mean"] is not None:
                return with_interval(found["eval_return_mean"], found["eval_return_std"], episodes)
    return None


def with_interval(mean: float, std: float, episodes: int) -> dict[str, Any]:
    """The 95 % interval of the mean, by the normal approximation."""
    half = 1.96 * std / math.sqrt(max(episodes, 1))
    return {"mean": mean, "std": std, "episodes": episodes, "interval": [mean - half, mean + half]}
