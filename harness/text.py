"""Anybody's text brought to what a line, a file or a database takes: one line, plain characters, a bounded length."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

REASON = 1000
"""Characters of a reason."""
LINE = 500
"""Characters of a line that a rank printed."""
LINES = 8_000
"""Bytes of a rank's last lines together, as JSON: some databases take 64 KB for an attribute."""
# colours and the like, then whatever else moves a cursor, ends a line or is refused by a database
ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-_]")
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def without_escapes(text: str) -> str:
    """`text` without a terminal's colours."""
    return ESCAPES.sub("", text) if "\x1b" in text else text


def cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def printable(text: str, limit: int = LINE) -> str:
    """`text` as a line of its own, its indentation kept."""
    return cut(CONTROLS.sub("", without_escapes(cut(text, 10 * limit)).replace("\t", "    ")), limit)


def one_line(text: object, limit: int = REASON) -> str:
    """`text`, or an error's, of several lines as one, with single spaces."""
    return cut(" ".join(CONTROLS.sub(" ", without_escapes(cut(str(text), 10 * limit))).split()), limit)


def last_that_fit(lines: Iterable[str], size: int = LINES) -> tuple[str, ...]:
    """The last of `lines`, each cut, as many as come to `size` bytes of JSON."""
    kept: list[str] = []
    for line in reversed([printable(line) for line in lines]):
        size -= len(json.dumps(line)) + 2
        if size < 0:
            break
        kept.insert(0, line)
    return tuple(kept)


def metrics_suffix(metrics: Mapping[str, float]) -> str:
    """`, is_success 0.93`; nothing of none."""
    return "".join(f", {name} {value:.4g}" for name, value in metrics.items())
