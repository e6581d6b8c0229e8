"""How a module of ours is run by its name from a folder in which a user may have a file of the same name."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path


def python_module(module: str, python: str = sys.executable) -> tuple[str, ...]:
    """The words that run `module` (`search`, `harness.cluster.slots`) from the present folder.

    `python -m` looks there first: where a file `search.py` or a folder `search` lies that is not ours, `-P` has Python
    look elsewhere. A user's own modules are found all the same: our commands add the folder themselves.
    """
    return (python, "-P", "-m", module) if hidden(module.partition(".")[0]) else (python, "-m", module)


def add_present_folder(package: str) -> None:
    """Puts the present folder, where a user's own modules lie, where `python -m` has it: first on the path.

    Where it holds a module that hides `package`, last: processes that this one spawns look for ours along that path.
    """
    here = os.getcwd()
    if hidden(package):
        sys.path[:] = [*(folder for folder in sys.path if folder not in ("", here)), here]
    elif here not in sys.path:
        sys.path.insert(0, here)


def hidden(package: str) -> bool:
    """Whether another `package` lies in the present folder, where `python -m` would find it before ours."""
    spec = find_spec(package)
    ours = Path(spec.origin).parent if spec is not None and spec.origin is not None else None
    here = Path.cwd() / package
    if (here / "__init__.py").is_file() or here.is_dir() and any(here.glob("__init__.*")):
        return ours is None or not os.path.samefile(here, ours)
    return any(here.with_name(here.name + suffix).is_file() for suffix in (".py", ".pyc")) or any(
        here.parent.glob(f"{package}.*.so")
    )
