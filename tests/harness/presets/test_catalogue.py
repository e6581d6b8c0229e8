"""`harness presets`: a table of what each preset reaches, in how many steps and minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config import load_table, preset_names
from harness.presets.catalogue import Entry, catalogue


@pytest.mark.parametrize(
    "line, expected",
    {
        "# PPO on X-v0: 500 within 100,000 steps, 0.3 minutes.": ("PPO on X-v0", "500", "0.3"),
        "# PPO on X-v0: about -73 within 1,000,000 steps (seed 0), in about 2 minutes.": (
            "PPO on X-v0",
            "about -73",
            "2",
        ),
        "# A net: test accuracy 0.99 after 30 epochs.": ("A net", "test accuracy 0.99", ""),
        "# DQN on X-v0": ("DQN on X-v0", "", ""),
    }.items(),
)
def test_a_first_line_tells_return_and_minutes(
    line: str, expected: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.toml").write_text(f"{line}\n[run]\nsteps = 7\n")
    monkeypatch.setattr("harness.presets.catalogue.preset_path", lambda name: tmp_path / f"{name}.toml")
    monkeypatch.setattr("harness.presets.catalogue.load_table", lambda name: {"run": {"steps": 7}})
    entry = Entry.of("x")
    assert (entry.what, entry.expected, entry.minutes) == expected and entry.steps == 7


def test_every_preset_is_listed_with_its_steps() -> None:
    lines = catalogue().splitlines()
    assert len(lines) == 1 + len(preset_names())
    for name, line in zip(preset_names(), lines[1:]):
        steps = load_table(name)["run"].get("steps")
        assert line.split()[0] == name and (steps is None or f"{steps:,}" in line.split())
