"""What imports what: the directions between the rooms, and that nobody waits for torch who only looks or watches.

The walk is a few pure functions over the packages' sources, so that each is tried on a violation too.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

from tests.command import ROOT, environment

LONGEST = 350
Sources = Mapping[str, str]
"""The text of each module, by its dotted name; a package's is that of its `__init__.py`."""


def sources_of(*packages: str) -> dict[str, str]:
    found = {}
    for path in (each for package in packages for each in (ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path.read_text()
    return found


class Imports(ast.NodeVisitor):
    """The dotted names that a module imports, also inside its functions; not those for type checkers alone."""

    def __init__(self, name: str, source: str, in_functions: bool = True) -> None:
        self.name, self.in_functions = name, in_functions
        self.found: set[str] = set()
        self.visit(ast.parse(source))

    def visit_If(self, node: ast.If) -> None:
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if self.in_functions:
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert not node.level, f"{self.name} imports by dots"
        self.found |= {f"{node.module}.{alias.name}" for alias in node.names}


def arrows(sources: Sources, in_functions: bool = True) -> dict[str, set[str]]:
    """By module: the modules of `sources` that it imports."""
    found = {}
    for name, source in sources.items():
        named = Imports(name, source, in_functions).found
        modules = {each if each in sources else each.rpartition(".")[0] for each in named}
        found[name] = (modules & sources.keys()) - {name}
    return found


def reached(start: str, graph: Mapping[str, Iterable[str]]) -> set[str]:
    """All that `start` leads to, itself only where it leads back."""
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            waiting += graph.get(each, ())
    return found


def circles(sources: Sources) -> set[str]:
    """The modules that import themselves by way of others."""
    graph = arrows(sources)
    return {name for name in sources if name in reached(name, graph)}


def searches(sources: Sources) -> set[str]:
    """The modules of harness that import search."""
    names = {name: Imports(name, source).found for name, source in sources.items() if is_in(name, "harness")}
    return {name for name, found in names.items() if any(is_in(each, "search") for each in found)}


def with_torch(sources: Sources, *rooms: str) -> set[str]:
    """The modules of `rooms` that load torch when they are imported, by way of whatever and of the packages that it
    lies in; or that name it in a function."""
    graph = arrows(sources, in_functions=False)
    for name in graph:
        graph[name] |= {parent for each in (name, *graph[name]) for parent in parents(each)} - {name}
    loads = {name for name, source in sources.items() if names_torch(Imports(name, source, in_functions=False).found)}
    own = {name for name in sources if any(is_in(name, room) for room in rooms)}
    by_itself = {name for name in own if names_torch(Imports(name, sources[name]).found)}
    return by_itself | {name for name in own if reached(name, graph) & loads}


def transports_named(sources: Sources) -> set[str]:
    """The modules outside `distributed` that import a transport, other than the types that all of them share."""
    home, types = "harness.distributed.transports", "harness.distributed.transports.base"
    found = set()
    for name, source in sources.items():
        named = {each for each in Imports(name, source).found if is_in(each, home) and not is_in(each, types)}
        if named and not is_in(name, "harness.distributed"):
            found.add(name)
    return found


def too_long(sources: Sources) -> set[str]:
    return {name for name, source in sources.items() if len(source.splitlines()) > LONGEST}


def is_in(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def names_torch(names: Iterable[str]) -> bool:
    return any(is_in(each, "torch") for each in names)


def parents(name: str) -> set[str]:
    parts = name.split(".")
    return {".".join(parts[:count]) for count in range(1, len(parts))}


RULES: dict[str, Callable[[Sources], set[str]]] = {
    "no circle": circles,
    "harness never imports search": searches,
    "where we run, and the schema, need no torch": lambda it: with_torch(it, "harness.cluster", "harness.schema"),
    "settings of algorithms need no torch": lambda it: with_torch(it, "harness.algorithms.settings"),
    "no transport is named outside distributed": transports_named,
    f"no file over {LONGEST} lines": too_long,
}


@pytest.mark.parametrize("rule", RULES)
def test_the_packages_keep_the_rule(rule: str) -> None:
    assert RULES[rule](sources_of("harness", "search")) == set()


PLANTED: dict[str, tuple[dict[str, str], set[str]]] = {
    "no circle": (
        {
            "harness.a": "import harness.b",
            "harness.b": "def late():\n    from harness.c import thing",
            "harness.c": "from harness import a",
            "harness.d": "from harness.a import b\nif TYPE_CHECKING:\n    import harness.e",
            "harness.e": "import harness.d",
        },
        {"harness.a", "harness.b", "harness.c"},
    ),
    "harness never imports search": (
        {
            "harness.a": "def late():\n    import search.space",
            "harness.b": "import searching",
            "search.c": "import search",
        },
        {"harness.a"},
    ),
    "where we run, and the schema, need no torch": (
        {
            "harness": "",
            "harness.cluster": "",
            "harness.cluster.a": "from harness.rooms.light import it",
            "harness.cluster.b": "def late():\n    import torch.nn",
            "harness.cluster.c": "import torchlight\nimport harness.late",
            "harness.schema": "import harness.middle",
            "harness.middle": "from harness import heavy",
            "harness.heavy": "from torch import nn",
            "harness.late": "def late():\n    import torch",
            "harness.rooms": "import torch",
            "harness.rooms.light": "",
        },
        {"harness.cluster.a", "harness.cluster.b", "harness.schema"},
    ),
    "settings of algorithms need no torch": (
        {"harness.algorithms.settings.a": "import torch", "harness.algorithms.ppo": "import torch"},
        {"harness.algorithms.settings.a"},
    ),
    "no transport is named outside distributed": (
        {
            "harness.a": "from harness.distributed.transports import mpi",
            "harness.b": "def late():\n    import harness.distributed.transports.horovod",
            "harness.c": "from harness.distributed.transports.base import Communicator",
            "harness.distributed.d": "from harness.distributed.transports.mpi import MpiCommunicator",
        },
        {"harness.a", "harness.b"},
    ),
    f"no file over {LONGEST} lines": (
        {"harness.a": "\n" * (LONGEST + 1), "harness.b": "\n" * LONGEST},
        {"harness.a"},
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_violation_is_found(rule: str) -> None:
    planted, found = PLANTED[rule]
    assert RULES[rule](planted) == found


# -- who waits for torch ---------------------------------------------------------------------------------------------

COMMAND = """
import json, os, sys
from {package}.__main__ import main
code = main(sys.argv[1:])
with open(os.environ["FOUND"], "w") as file:
    json.dump([code, sorted(name for name in ("torch", "horovod", "mpi4py.MPI") if name in sys.modules)], file)
"""
QUICK = ["run.steps=512", "evaluation.count=1", "evaluation.episodes=2", "evaluation.final_episodes=2"]
STUDY = """
[study]
name = "tiny"
trials = 1
[trial]
preset = "ppo-cartpole"
ranks = 2
seeds = 1
[trial.overrides]
run.steps = 512
compile.mode = "off"
evaluation = {count = 1, episodes = 2, final_episodes = 2}
[space]
"optimizer.lr" = {low = 1e-4, high = 1e-2, log = true}
[confirm]
seeds = 1
episodes = 2
"""


def done(folder: Path, package: str, *words: str) -> tuple[int, list[str], str]:
    """Exit code; what it had loaded of what takes seconds once its work was done; and what it printed."""
    found = folder / "found.json"
    command = [sys.executable, "-c", COMMAND.format(package=package), *words]
    ran = subprocess.run(
        command, cwd=folder, env=environment({"FOUND": str(found)}), capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    code, loaded = json.loads(found.read_text())
    return code, loaded, ran.stdout + ran.stderr


def test_the_parent_of_ranks_loads_no_torch(tmp_path: Path) -> None:
    words = ["train", "ppo-cartpole", *QUICK, "compile.mode=off", "--ranks", "2", "--output", "run"]
    code, loaded, printed = done(tmp_path, "harness", *words)
    assert code == 0 and "over 2 episodes" in printed, printed
    assert loaded == []
    code, loaded, printed = done(tmp_path, "harness", *words)  # it is finished already
    assert (code, loaded) == (0, []) and "nothing was trained" in printed


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("dqn-cartpole", "env.id=Pendulum-v1"), "(1,), float32) actions; with dqn they must be Discrete"),
        (("sac-pendulum", "env.id=CartPole-v1"), "has Discrete(2) actions; with sac they must be a Box"),
        (("ppo-cartpole", "algorithm.squash=true"), "algorithm.squash must be false: env.id = 'CartPole-v1'"),
        (("ppo-cartpole", "network.kind=cnn"), "network.kind = 'cnn' is for images of three dimensions"),
        (("ppo-cartpole", "algorithm.name=none"), "algorithm.name must be one of a2c, dqn, ppo"),
        (("supervised-digits", "algorithm.batch_size=1"), "algorithm.batch_size must be at least the 2 ranks"),
    ],
)  # fmt: skip
def test_the_parent_refuses_without_torch(tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    code, loaded, printed = done(tmp_path, "harness", "train", *words, "--ranks", "2", "--output", "run")
    assert code == 2 and says in printed and printed.count("\n") == 1, printed
    assert loaded == [] and not (tmp_path / "run").exists()


def test_a_search_and_those_who_look_at_it_load_no_torch(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    code, loaded, printed = done(tmp_path, "search", "run", "study.toml")
    assert (code, loaded) == (0, []), printed
    for words in (["status", "--once"], ["best"], ["best", "--toml"]):
        code, loaded, printed = done(tmp_path, "search", *words, "--study", "tiny")
        assert (code, loaded) == (0, []) and printed, words
    assert done(tmp_path, "search", "list")[:2] == (0, [])
