"""A policy in an ONNX file: acts by ONNX Runtime alone, without torch in the process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from harness.envs.evaluation import Noise
from harness.errors import BadInput
from harness.policy.base import CallablePolicy
from harness.policy.card import KEY, Card


class OnnxPolicy(CallablePolicy):
    """What `Policy` is for a run's directory."""

    def __init__(self, path: Path | str, model: bytes | None = None, providers: list[Any] | None = None) -> None:
        """`model`: what stands in the file, where it is read already. BadInput where it is no policy."""
        self.path = Path(path)
        self.session = session_of(self.path, model, providers or ["CPUExecutionProvider"])
        described = self.session.get_modelmeta().custom_metadata_map.get(KEY)
        self.card = Card.read(described, str(self.path))
        self.shape, noise = tuple(self.card.shape), self.card.noise
        self.drawn_from = None if noise is None else Noise(noise["kind"], tuple(noise["shape"]), noise["every"])
        self.generator = np.random.default_rng(self.card.seed)
        self.run, self.output = self.session.run, [self.session.get_outputs()[0].name]

    def act(self, observations: np.ndarray, drawn: np.ndarray | None = None) -> np.ndarray:
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
    options.log_severity_level = 3  # an input with a default would be a warning
    if model is None:
        try:
            model = path.read_bytes()
        except OSError as error:
            raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    try:
        return onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:  # its errors have no class of their own in common
        raise BadInput(f"{path} is no model that ONNX Runtime reads: {' '.join(str(error).split())}") from None
