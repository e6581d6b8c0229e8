"""A command's placeholders: as a value, as several words, as a flag, or all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import BadInput
from search.config import resolve_study
from search.space.parse import read_space
from search.trials.command_task import CommandTask
from search.trials.placeholders import filled
from search.trials.prepared import make_task

VALUES = {"lr": 0.01, "layers": [32, 16], "anneal": True, "norm": False, "clip": "none", "mode": "fast"}


@pytest.mark.parametrize(
    ("words", "become"),
    [
        (["--lr", "{lr}", "--layers", "{layers}"], ["--lr", "0.01", "--layers", "[32, 16]"]),
        (["--layers", "{layers:words}"], ["--layers", "32", "16"]),
        (["--layers={layers:csv}"], ["--layers=32,16"]),
        (["{anneal:flag}", "{norm:flag}"], ["--anneal"]),
        (["{anneal:--use-annealing}", "{norm:-n}"], ["--use-annealing"]),
        (["{anneal:--a|--no-a}", "{norm:--n|--no-n}"], ["--a", "--no-n"]),
        (["--mode", "{mode}", "--clip", "{clip:optional}"], ["--mode", "fast"]),
        (["--clip", "{clip}"], ["--clip", "none"]),
        (["--beta", "{beta}", "x"], ["x"]),
        (["lr={lr}", "${HOME}", "$lr", "{a: 1}"], ["lr=0.01", "${HOME}", "$lr", "{a: 1}"]),
        (["{lr}", "{layers}", "{clip}", "{mode}", "{args}"], [
            "0.01", "[32, 16]", "none", "fast", "--anneal=true", "--norm=false",
        ]),
        (["{layers:words}", "{clip}", "{args_no_boolean_flags}"], [
            "32", "16", "none", "--lr=0.01", "--anneal", "--mode=fast",
        ]),
        (["{layers:words}", "{clip}", "{anneal:flag}", "{norm:flag}", "{args_no_hyphens}"], [
            "32", "16", "none", "--anneal", "lr=0.01", "mode=fast",
        ]),
        (["{layers}", "{clip}", "{anneal}", "{norm}", "--json={args_json}"], [
            "[32, 16]", "none", "true", "false", '--json={"lr": 0.01, "mode": "fast"}',
        ]),
    ],
)  # fmt: skip
def test_what_a_placeholder_becomes(words: list[str], become: list[str]) -> None:
    assert filled(words, {**VALUES, "seed": 3}, ["seed"]) == become


def task_of(command: list[str], space: dict[str, Any] | None = None, **sections: Any) -> CommandTask:
    table = {"study": {"name": "s"}, "trial": {"command": ["python", *command]}, "space": space or {}, **sections}
    task = make_task(resolve_study(table))
    task.check(read_space(space or {}), 1)
    assert isinstance(task, CommandTask)
    return task


SPACE = {
    "lr": {"low": 0.1, "high": 0.5},
    "anneal": {"choices": [True, False]},
    "layers": {"choices": [[32, 32], [64]]},
    "clip": {"choices": ["none", 0.5]},
}


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["{lr:flag}", "{anneal}", "{layers}", "{clip}"], "{lr:flag} is a flag, so lr must be true or false, got 0.1"),
        (["--x={anneal:flag}", "{lr}", "{layers}", "{clip}"], "must be a word of its own"),
        (["-l{layers:words}", "{lr}", "{anneal}", "{clip}"], "must be a word of its own"),
        (["a{args}"], "must be a word of its own"),
        (["{lr}"], "space.anneal is not used: trial.command has no {anneal}"),
        (["{args}", "{nothing}"], "{nothing}, which is no parameter of the space"),
    ],
)
def test_a_form_that_does_not_fit_is_refused_before_anything_starts(command: list[str], says: str) -> None:
    with pytest.raises(BadInput) as refused:
        task_of([*command, "{seed}"], SPACE)
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_flags_lists_and_none_reach_a_command(tmp_path: Path) -> None:
    words = ["{anneal:flag}", "--layers", "{layers:words}", "--clip", "{clip:optional}", "{args}", "{seed}"]
    task = task_of(words, SPACE)
    settings = {"lr": 0.3, "anneal": True, "layers": [32, 32], "clip": "none"}
    command = task.command(settings, 7, tmp_path, None)
    assert command[-6:] == ("--anneal", "--layers", "32", "32", "--lr=0.3", "7")
    assert 'clip = "none"' in task.describe(settings, 7)


@pytest.mark.parametrize("sections", [{"trial": {"seeds": 2}}, {"confirm": {"seeds": 3}}, {}])
def test_a_command_without_its_seed_is_refused_where_it_would_repeat_one_run(sections: dict[str, Any]) -> None:
    trial = {"command": ["python", "{x}"], "seeds": 1, **sections.get("trial", {})}
    confirm = sections.get("confirm", {"seeds": 0} if "trial" in sections else {})
    table = {
        "study": {"name": "s"}, "trial": trial, "confirm": confirm, "objective": {"evaluations": 1},
        "space": {"x": {"low": 0.0, "high": 1.0}},
    }  # fmt: skip
    with pytest.raises(BadInput, match=r"no {seed}, so that (trial.seeds = 2|confirm.seeds = 3) would repeat one run"):
        make_task(resolve_study(table))
    make_task(resolve_study({**table, "trial": {**trial, "seeds": 1}, "confirm": {"seeds": 0}}))
