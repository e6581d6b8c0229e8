"""Study files and command lines with mistakes in them: they run, or are refused in one line with exit code 2."""

from __future__ import annotations

import contextlib
import io
import random
import string
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from search.__main__ import main

pytestmark = pytest.mark.filterwarnings("ignore")
COMMAND: dict[str, Any] = {
    "study": {
        "name": "s", "trials": 3, "sampler": {"name": "tpe", "n_startup_trials": 2}, "direction": "minimize",
        "pruner": {"name": "median", "n_warmup_steps": 1}, "seed": 3, "first": [{"lr": 0.2, "layers": [64, 64]}],
        "constraints": ["lr * 10 >= n - 7"], "max_minutes": 5.0,
    },
    "trial": {
        "command": ["python", "{lr}", "{layers:words}", "{anneal:flag}", "{opt}", "{momentum}", "{args}", "{seed}"],
        "ranks": 1, "seeds": 2, "launcher": "mpirun", "max_minutes": 3.0, "keep": "best", "overrides": {"fixed": 1},
    },
    "objective": {"aggregate": "mean", "evaluations": 4},
    "space": {
        "lr": {"low": 1e-3, "high": 1.0, "log": True},
        "layers": {"choices": [[32, 32], [64, 64]]},
        "anneal": {"choices": [True, False]},
        "opt": {"choices": ["adam", "sgd"]},
        "momentum": {"low": 0.0, "high": 0.9, "when": {"opt": "sgd"}},
        "n": {"low": -2, "high": 8, "step": 2, "transform": "x * 2"},
    },
    "confirm": {"seeds": 2},
}  # fmt: skip
PRESET: dict[str, Any] = {
    "study": {"name": "p", "trials": 2},
    "trial": {"preset": "ppo-cartpole", "ranks": 1, "launcher": "mpirun", "overrides": {"run": {"steps": 2000}}},
    "space": {
        "optimizer.lr": {"low": 1e-5, "high": 1e-2, "log": True},
        "algorithm.target_kl": {"choices": ["none", 0.1]},
    },
}
WORDS = [
    0, 1, -1, 2, 10**12, 1e308, -0.5, 0.3, True, False, "", "none", "x", "a b", "{x}", "../x", "é", "x" * 300, "1e-3",
    [], [1], [[]], ["a"], {}, {"low": 1}, {"name": "tpe"}, {"choices": [1, 1]}, {"choices": [None]},
    "sqlite:///:memory:", "postgresql://u:p@q@127.0.0.1:9/x", "nodb://x", "grid", "hyperband", "threshold",
    "lr < 2", "lr <", "1 - 10**x", float("inf"), float("nan"),
]  # fmt: skip
MISTAKES = """
    study.trials | =1 | a=b | space.lr=1 | --stduy | --storage | x | --hostfile=none | trial.ranks=two | -x | | ..=1
    study.sampler=grid | space.n.step=3 | trial.keep=all | study.first=[{lr=9.0}] | space.lr.low=[ | study.name=../x
    trial.command=[] | trial.preset=ppo-cartpole | confirm.seeds=-1 | trial.launcher=mpirunn | é=1 | space..low=1
    study.constraints=['lr >'] | study.trials.x=1 | trial.overrides=3 | space=1 | trial.max_total_minutes=0
"""


def paths_of(table: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where each value stands in nested tables and lists."""
    if not isinstance(table, (dict, list)):
        return [before]
    inner = table.items() if isinstance(table, dict) else enumerate(table)
    return ([before] if before else []) + [path for key, value in inner for path in paths_of(value, (*before, key))]


def copied(table: Any) -> Any:
    if isinstance(table, dict):
        return {key: copied(value) for key, value in table.items()}
    return [copied(value) for value in table] if isinstance(table, list) else table


def mutated(table: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """With a mistake or two: a value that is another's, a key misspelt, left out, or too much."""
    table = copied(table)
    for _ in range(rng.choice([1, 1, 2])):
        *parents, last = rng.choice(paths_of(table))
        inside = table
        for key in parents:
            inside = inside[key]
        what = rng.choice(["value", "value", "value", "remove", "misspell", "add"])
        if what == "value":
            inside[last] = copied(rng.choice(WORDS))
        elif what == "remove":
            del inside[last]
        elif isinstance(inside, dict):
            name = str(last)
            at = rng.randrange(len(name)) if name else 0
            other = name[:at] + rng.choice(string.ascii_lowercase + ".-_ ") + name[at + 1 :]
            value = inside[last]
            if what == "misspell":
                del inside[last]
            inside[other] = copied(value)
    return table


def mutated_text(text: str, rng: random.Random) -> str:
    """With some characters of the file changed, moved or gone."""
    for _ in range(rng.choice([1, 1, 3])):
        at = rng.randrange(len(text))
        kind = rng.randrange(3)
        new = "" if kind == 0 else rng.choice('[]{}",=.#\n\0é0a-') if kind == 1 else text[at : at + rng.randrange(20)]
        text = text[:at] + new + text[at + 1 :]
    return text


def mutated_line(rng: random.Random) -> list[str]:
    """A command line with a mistake or two."""
    words = ["run", "s.toml", "--dry-run", "study.trials=3", "space.lr.high=2.0", "--study", "t", "trial.ranks=1"]
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(1, len(words))
        words[at : at + rng.randint(0, 1)] = [rng.choice(MISTAKES.replace("\n", "|").split("|")).strip()]
    return words if "--dry-run" in words else [*words, "--dry-run"]


def check(words: list[str], where: str) -> int:
    """Its exit code, 0 or 2; and where it is 2 what was said is one line."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main(words)
    except SystemExit as ended:  # `--help`
        code = int(ended.code or 0)
    except BaseException as error:
        raise AssertionError(f"{type(error).__name__}: {error}\n{where}") from error
    assert code in (0, 2), f"exit code {code}: {err.getvalue()}\n{where}"
    if code == 2:
        assert err.getvalue().count("\n") == 1 and len(err.getvalue()) < 2000, f"{err.getvalue()}\n{where}"
    return code


def test_500_study_files_and_command_lines_run_or_are_refused_in_one_line(tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        file, codes = Path("s.toml"), []
        for number in range(500):
            rng = random.Random(number)
            base = PRESET if number % 20 == 19 else COMMAND
            words = ["run", "s.toml", "--dry-run"]
            try:
                text = tomli_w.dumps(mutated(base, rng) if number % 4 < 2 else base)
            except TypeError:  # what TOML cannot say no user has written
                continue
            if number % 4 == 2:
                text = mutated_text(text, rng)
            if number % 4 == 3:
                words = mutated_line(rng)
            file.write_text(text)
            codes.append(check(words, f"{number}: {words}\n{text}"))
        assert sorted(path.name for path in Path().iterdir()) == ["s.toml"], "nothing was made"
    assert len(codes) > 450 and 50 < codes.count(0) < 250
