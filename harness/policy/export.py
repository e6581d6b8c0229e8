"""`export(RUN_DIR)`: a trained policy as one file that acts without this project, checked before it gets its name."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.config import load_run_config
from harness.errors import BadInput
from harness.files import plain, write_json
from harness.lifecycle.result import read_result, versions
from harness.policy.card import Card, beside, describe_actions, describe_observations
from harness.policy.ensemble import HOWS, How, ensemble_of
from harness.policy.exporters import SUFFIXES, WAYS, eager, quietly
from harness.policy.graph import graph_of
from harness.policy.parity import States, compare, visit
from harness.policy.policy import Policy, Which, load_run

Format = Literal["onnx", "torch"]
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
    if ensemble is not None:  # whose file is compared with the graphs of its members
        for policy, graph, seen in zip(policies, graphs, visited):
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
