"""Which commands a fork can become, and what would make it another process than a fresh one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.launching.warm.child import threads_wanted
from harness.launching.warm.environment import read_at_import
from harness.launching.warm.program import Program, read_program, shadowed

CONFINED = ["-m", "harness.cluster.slots", sys.executable]


@pytest.mark.parametrize(
    ("words", "program"),
    [
        (["-m", "harness", "train", "x"], Program("harness", ("train", "x"), True)),
        (["-P", "-m", "harness", "train"], Program("harness", ("train",), True, present_folder=False)),
        (["train.py", "--lr", "1"], Program("train.py", ("--lr", "1"), False)),
        ([*CONFINED, "-m", "harness", "train"], Program("harness", ("train",), True, confined=True)),
        ([*CONFINED, "train.py"], Program("train.py", (), False, confined=True)),
        ([*CONFINED, "-S", "train.py"], None),
        ([*CONFINED[:2], "bash", "train.sh"], None),
        (["-u", "train.py"], None),
        (["-c", "print()"], None),
        (["train.sh"], None),
        ([], None),
    ],
)
def test_modules_and_scripts_are_programs_and_whatever_needs_options_is_none(
    words: list[str], program: Program | None
) -> None:
    assert read_program(words) == program


def test_a_module_of_the_folder_hides_one_that_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "mine.py").touch()
    (tmp_path / "numpy").mkdir()
    assert shadowed(str(tmp_path)) is None, "a folder without __init__.py hides no package"
    (tmp_path / "numpy" / "__init__.py").touch()
    assert shadowed(str(tmp_path)) == "numpy"


def test_the_folder_of_what_is_loaded_hides_nothing() -> None:
    assert shadowed(str(Path(sys.modules["harness"].__file__ or "").parents[1])) is None


@pytest.mark.parametrize(
    ("environ", "cores", "threads"),
    [({}, 1, 1), ({"OMP_NUM_THREADS": "3"}, 4, 3), ({}, 2, None), ({"OMP_NUM_THREADS": "2,1"}, 1, None)],
)
def test_threads_are_known_of_one_core_or_by_their_variable(
    environ: dict[str, str], cores: int, threads: int | None
) -> None:
    assert threads_wanted(environ, cores) == threads


def test_what_is_read_as_libraries_are_loaded() -> None:
    read = read_at_import({"KMP_AFFINITY": "x", "CUDA_VISIBLE_DEVICES": "0", "HOME": "y", "OMP_NUM_THREADS": "4"})
    assert read == {"KMP_AFFINITY": "x", "LD_LIBRARY_PATH": ""}
    ours = read_at_import({"LD_LIBRARY_PATH": f"/mine:{sys.prefix}/lib"})
    assert ours == {"LD_LIBRARY_PATH": "/mine"}, "mpirun's own folder is there for all ranks"


@pytest.mark.parametrize(
    "words", [["/bin/horovodrun", "-np", "2"], ["-m", "harness.launching.run_horovodrun", "-np", "2"]]
)
def test_a_launcher_needs_no_threads_to_be_set(words: list[str]) -> None:
    program = read_program(words)
    assert program is not None and program.sets_threads
    script = read_program(["train.py"])
    assert script is not None and not script.sets_threads
