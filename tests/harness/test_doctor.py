"""The doctor on this machine as it is, and on the same machine with things missing or broken."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.doctor import libraries, machine, ranks, verdict
from harness.doctor.rows import Row
from harness.launching import processes
from tests.conftest import need

CALL = "import sys; from harness.doctor import main; sys.exit(main())"


def table_of(text: str) -> dict[str, tuple[str, str, str]]:
    """The drawn table's rows: what -> (state, detail, advice)."""
    found: dict[str, tuple[str, str, str]] = {}
    last = ""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("│")[1:-1]]
        if len(cells) == 4 and cells[0]:
            last = cells[0]
            found[last] = (cells[1], cells[2], cells[3])
        elif len(cells) == 4:  # a folded cell goes on
            found[last] = (found[last][0], found[last][1] + cells[1 + 1], found[last][2] + cells[3])
    return found


def test_here_everything_that_make_install_brings_works(tmp_path):
    need(shutil.which("g++") or shutil.which("clang++"), "a C++ compiler")
    done = subprocess.run([sys.executable, "-c", CALL], cwd=tmp_path, capture_output=True, text=True, timeout=400)
    rows = table_of(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    for what in (
        "torch",
        "gymnasium",
        "Horovod",
        "mpi4py",
        "mpirun",
        "horovodrun",
        "cores",
        "database",
        "C++ compiler",
    ):
        assert rows[what][0] == "ok", rows[what]
    for path in ("Horovod, MPI", "Horovod, Gloo", "mpi4py"):
        state, detail, _ = rows[f"2 ranks: {path}"]
        assert state == "ok" and re.fullmatch(r"20 KB in [0-9.]+ ms", detail)
    assert "Training runs here, on one rank and on several (Horovod, MPI; Horovod, Gloo; mpi4py)." in done.stdout
    assert "MPI yes, Gloo yes" in rows["Horovod"][1] and "GPUs" in rows and "Slurm" in rows
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_without_mpirun_horovodrun_and_a_compiler_the_rows_say_so_and_one_rank_still_trains(tmp_path):
    # a virtual environment with this one's libraries and none of its programs
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(Path(sys.executable))
    (tmp_path / "lib").symlink_to(Path(sys.prefix) / "lib")
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", tmp_path / "pyvenv.cfg")
    env = {name: value for name, value in os.environ.items() if name != "CXX"} | {"PATH": str(tmp_path / "bin")}
    done = subprocess.run(
        [tmp_path / "bin" / "python", "-c", CALL], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=400
    )
    rows = table_of(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows["mpirun"] == ("missing", "not on the PATH", "make install brings one")
    assert rows["horovodrun"] == ("missing", "not on the PATH", "make install builds Horovod")
    assert rows["C++ compiler"][:2] == ("missing", "no g++ on the PATH")
    assert rows["Slurm"][:2] == ("missing", "no sbatch and srun on the PATH")
    assert rows["2 ranks: Horovod, MPI"][:2] == ("missing", "there is no horovodrun")
    assert rows["2 ranks: mpi4py"][:2] == ("missing", "there is no mpirun")
    assert rows["torch"][0] == "ok"
    assert "Training runs here on one rank only" in done.stdout


@pytest.fixture
def shadow(tmp_path, monkeypatch):
    """Puts a module of one's own before the installed one of that name, for the doctor's children."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def put(module: str, code: str) -> None:
        path = tmp_path / module.replace(".", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".py").write_text(code)

    return put


def test_a_library_that_is_not_there_is_missing_and_one_that_does_not_load_is_broken_with_its_reason(shadow):
    shadow("torch", "raise ModuleNotFoundError(\"No module named 'torch'\")")
    assert (libraries.check_torch()[0].state, libraries.check_torch()[0].detail) == ("missing", "not installed")
    shadow("gymnasium", "raise ImportError('libGL.so.1: cannot open shared object file')")
    (row,) = libraries.check_gymnasium()
    assert (row.state, row.detail) == ("broken", "ImportError: libGL.so.1: cannot open shared object file")
    shadow("horovod", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    (row,) = libraries.check_horovod()
    assert (row.state, row.detail) == ("broken", "ended by signal 11")


def test_without_torch_the_table_is_drawn_all_the_same_and_the_exit_code_is_1(shadow, tmp_path):
    shadow("torch", "raise ModuleNotFoundError(\"No module named 'torch'\")")
    done = subprocess.run([sys.executable, "-c", CALL], cwd=tmp_path, capture_output=True, text=True, timeout=400)
    rows = table_of(done.stdout)
    assert done.returncode == 1, done.stdout + done.stderr
    assert rows["torch"] == ("missing", "not installed", "make install installs the version that was tested")
    assert rows["Horovod"][0] == "broken" and "No module named 'torch'" in rows["Horovod"][1]
    assert rows["2 ranks: Horovod, Gloo"][0] == "broken" and rows["2 ranks: Horovod, Gloo"][1]
    assert rows["2 ranks: mpi4py"][0] == "ok"
    assert "No training can run here: torch is needed." in done.stdout


def test_an_mpirun_of_another_mpi_than_mpi4pys_is_told(tmp_path, monkeypatch):
    program = tmp_path / "mpirun"
    program.write_text("#!/bin/sh\necho 'mpirun (Open MPI) 4.0.3'\n")
    program.chmod(0o755)
    monkeypatch.setattr(libraries.shutil, "which", lambda name, path: str(program))
    row = libraries.check_program("mpirun", "", library="Open MPI v4.1.8")
    assert row.state == "broken" and row.detail.endswith("4.0.3, but mpi4py loads Open MPI v4.1.8")
    assert libraries.check_program("mpirun", "", library="Open MPI v4.0.3").state == "ok"


def test_a_folder_that_cannot_be_written_is_told_with_what_to_do(monkeypatch):
    need(Path("/proc/self").exists(), "/proc, where not even root can write")
    monkeypatch.chdir("/proc")
    (row,) = machine.check_database()
    assert row.state == "broken" and "nothing can be written in /proc" in row.detail and "--storage URL" in row.advice


def test_ranks_that_fail_are_told_with_their_error():
    # one of them: where both print at once, pieces of their lines mix
    code = "import os\nif os.environ['OMPI_COMM_WORLD_RANK'] == '0': raise RuntimeError('no carrier')"
    row = ranks.reduce_with_two_ranks("2 ranks", ["mpirun", "-np", "2", "-H", "localhost:2"], code, "do this")
    assert (row.state, row.advice) == ("broken", "do this")
    assert row.detail == "exit code 1: RuntimeError: no carrier"


def test_ranks_that_hang_are_ended_and_none_is_left(monkeypatch):
    monkeypatch.setattr(ranks, "REDUCE_SECONDS", 4.0)
    ended = []
    end_all = processes.end_all
    monkeypatch.setattr(processes, "end_all", lambda run_id: ended.append(run_id) or end_all(run_id))
    code = "import time\nwhile True: time.sleep(1)"
    row = ranks.reduce_with_two_ranks("2 ranks", ["mpirun", "-np", "2", "-H", "localhost:2"], code, "")
    assert row.state == "broken" and row.detail.startswith("no result within 4 s")
    assert len(ended) == 1 and processes.processes_of(ended[0]) == {}


@pytest.mark.parametrize(
    "states,code,sentence",
    [
        ({"torch": "missing", "gymnasium": "ok"}, 1, "No training can run here: torch is needed."),
        ({"torch": "ok", "gymnasium": "broken"}, 1, "No training can run here: gymnasium is needed."),
        ({"torch": "ok", "gymnasium": "ok", "Horovod": "missing"}, 0, "Training runs here on one rank only"),
        ({"torch": "ok", "gymnasium": "ok", "2 ranks: mpi4py": "ok"}, 0, "on one rank and on several (mpi4py)."),
    ],
)
def test_the_exit_code_is_1_only_where_nothing_trains(states, code, sentence):
    found, said = verdict([Row(what, state, "") for what, state in states.items()])
    assert found == code and sentence in said
