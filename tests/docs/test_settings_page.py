"""docs/settings.md is what the settings say of themselves."""

from __future__ import annotations

import re
from typing import Any, Literal

import pytest
from pydantic import Field

from harness.config import load_run_config
from harness.settings import Settings
from tests.command import ROOT
from tests.docs.settings_page import Section, page


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == page(), "make docs"


def test_every_setting_says_what_it_does() -> None:
    rows = [line for line in page().splitlines() if line.startswith("| `")]
    assert len(rows) > 150
    assert [row for row in rows if row.endswith("|  |")] == []


@pytest.mark.parametrize("preset", ["ppo-pong", "sac-pendulum", "supervised-digits"])
def test_every_setting_of_a_run_is_on_it(preset: str) -> None:
    def names(table: dict[str, Any], prefix: str = "") -> list[str]:
        inner = [(f"{prefix}{key}", value) for key, value in table.items()]
        return [
            each
            for key, value in inner
            for each in (names(value, f"{key}.") if isinstance(value, dict) and value else [key])
        ]

    listed = set(re.findall(r"^\| `([\w.]+)`", page(), re.M))
    settings = [name for name in names(load_run_config(preset).to_table()) if ".kwargs" not in name]
    assert set(settings) - {"algorithm.name"} <= listed


class Example(Settings):
    most: float | None = Field(None, gt=0, le=1.5)
    """At most
    so much."""
    way: Literal["a|b", "auto"] | int = Field("auto", ge=2)
    """Which."""
    widths: list[int] = [64, 64]
    """Of layers."""
    seed: int = Field(0, lt=2**63)
    """Where it begins."""
    class_: str = Field(alias="class")
    """Whose."""


def test_a_row_says_what_a_setting_may_be_and_its_default() -> None:
    lines = Section("x", "x.", Example).markdown().splitlines()

    assert lines[4:] == [
        "| `x.most` | number > 0 and ≤ 1.5 | *unset* | At most so much. |",
        '| `x.way` | `"a\\|b"`, `"auto"` or whole number ≥ 2 | `"auto"` | Which. |',
        "| `x.widths` | list of whole numbers | `[64, 64]` | Of layers. |",
        "| `x.seed` | whole number < 9223372036854775808 | `0` | Where it begins. |",
        "| `x.class` | text | *required* | Whose. |",
        "",
    ]
