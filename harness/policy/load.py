"""`load_policy`: of a run's directory, or of an exported file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness.policy.onnx_policy import OnnxPolicy

if TYPE_CHECKING:
    from harness.policy.policy import Policy


def load_policy(path: Path | str, which: Literal["latest", "best"] = "latest") -> Policy | OnnxPolicy:
    """The last or the best policy of a run, or that of a file FILE.onnx, which acts without torch; BadInput where there
    is none."""
    if is_onnx(path):
        return OnnxPolicy(path)
    from harness.policy.policy import load_run

    return load_run(path, which)


def is_onnx(path: Path | str) -> bool:
    return Path(path).suffix == ".onnx" and not Path(path).is_dir()
