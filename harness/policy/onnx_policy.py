"""A policy in an ONNX file: acts by ONNX Runtime alone, without torch in the process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from harness.envs.evaluation import Noise
from harness.errors import BadInput
from harness.policy.card import KEY, Card


class OnnxPolicy:
    """`policy(observations)`: observations (n, *obs_shape), or a single one (*obs_shape), to actions as the environment
    takes them; what `Policy` is for a run's directory."""

    def __init__(self, path: Path | str, model: bytes | None = None, providers: list[Any] | None = None) -> None:
        """`model`: what stands in the file, where it is read already. BadInput where it is no policy."""
        self.path = Path(path)
        self.session = session_of(self.path, model, providers or ["CPUExecutionProvider"])
        described = self.session.get_modelmeta().custom_metadata_map.get(KEY)
        self.card = Card.read(described, str(self.path))
        noise = self.card.noise
        self.drawn_from = None if noise is None else Noise(noise["kind"], tuple(noise["shape"]), noise["every"])
        self.generator = np.random.default_rng(self.card.seed)
        self.run, self.output = self.session.run, [self.session.get_outputs()[0].name]

    def __call__(self, observations: np.ndarray, deterministic: bool = True) -> np.ndarray:
        """`deterministic`: the likeliest actions; off: drawn as in training, where the policy draws any."""
        shape, seen = self.card.shape, np.asarray(observations)
        single = seen.shape == shape
        if not single and seen.shape[1:] != shape:
            raise ValueError(
                f"observations must be of shape (n, {', '.join(map(str, shape))}), or a single one of shape {shape}, "
                f"got {seen.shape}"
            )
        batch = seen[None] if single else seen
        drawn = None
        if not deterministic and self.drawn_from is not None:
            drawn = np.stack([self.drawn_from.draw(self.generator) for _ in batch])
        actions = self.act(batch, drawn)
        return actions[0] if single else actions

    def act(self, observations: np.ndarray, drawn: np.ndarray | None = None) -> np.ndarray:
        """Actions for observations (n, *obs_shape), by random numbers where they are `drawn` by these."""
        inputs = {"observations": np.ascontiguousarray(observations, self.card.dtype)}
        if drawn is not None:
            inputs["noise"] = np.ascontiguousarray(drawn, np.float32)
        return self.run(self.output, inputs)[0]


def session_of(path: Path, model: bytes | None, providers: list[Any]) -> Any:
    """Of one thread: more would wait in a loop beside the environment. BadInput where it cannot be had."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BadInput(f"{path} needs the extra 'export': pip install -e '.[export]' ({error})") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # an input with a default is remarked on as a warning
    if model is None:
        try:
            model = path.read_bytes()
        except OSError as error:
            raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    try:
        return onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:  # its errors have no class of their own in common
        raise BadInput(f"{path} is no model that ONNX Runtime reads: {' '.join(str(error).split())}") from None
