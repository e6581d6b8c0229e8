"""What the fork server makes is what Python itself would have started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.launching.processes import processes_of, state_of
from tests.conftest import need, wait_for
from tests.forkserver import ADDRESS

LOOK = """
import json, os, resource, signal, sys
print(json.dumps({
    "argv": sys.argv, "path": [folder for folder in sys.path if "frozen" not in folder], "cwd": os.getcwd(),
    "environ": dict(os.environ), "umask": os.umask(0), "cores": sorted(os.sched_getaffinity(0)),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE), "name": __name__, "executable": sys.executable,
    "ignored": [int(number) for number in (signal.SIGHUP, signal.SIGUSR2, signal.SIGTERM)
                if signal.getsignal(number) == signal.SIG_IGN],
    "streams": [(each.encoding, each.errors, each.line_buffering) for each in (sys.stdin, sys.stdout, sys.stderr)],
    "input": sys.stdin.read(), "cmdline": open("/proc/self/cmdline").read().split("\\0")[1:3],
    "environ of the kernel": sorted(set(filter(None, open("/proc/self/environ").read().split("\\0")))),
    "torch": "torch" in sys.modules,
}))
"""


@pytest.fixture
def forked() -> None:
    need(ADDRESS in os.environ, "the fork server (HARNESS_TESTS_FRESH is set)")


def run(
    script: Path, *arguments: str, env: dict[str, str] | None = None, **more: Any
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, env={**os.environ, **(env or {})}, capture_output=True, text=True, **more)


def test_arguments_environment_directory_limits_and_streams_are_those_of_a_fresh_process(
    forked: None, tmp_path: Path
) -> None:
    script = tmp_path / "look.py"
    script.write_text(LOOK)
    looks = {}
    for how, address in (("forked", os.environ[ADDRESS]), ("fresh", "")):
        env = {ADDRESS: address, "MINE": "x=ü"}
        done = run(script, "a b", "--c", env=env, cwd=tmp_path, input="line\n", umask=0o27)
        assert done.returncode == 0, done.stderr
        looks[how] = json.loads(done.stdout)
        for where in (looks[how]["environ"], looks[how]):
            where.pop(ADDRESS, None)
        shown = looks[how]["environ of the kernel"]
        looks[how]["environ of the kernel"] = [each for each in shown if not each.startswith(ADDRESS)]
    assert looks["forked"].pop("torch") and not looks["fresh"].pop("torch")
    added = set(looks["forked"]["environ"]) - set(looks["fresh"]["environ"])
    by_imports = {"KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "TORCHINDUCTOR_CACHE_DIR", "PYGAME_HIDE_SUPPORT_PROMPT"}
    assert added <= by_imports
    for name in added:
        del looks["forked"]["environ"][name]
    assert looks["forked"] == looks["fresh"]


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("raise SystemExit(75)", 75, ""),
        ("raise SystemExit('no such thing')", 1, "no such thing\n"),
        ("raise ValueError('what')", 1, "ValueError: what\n"),
        ("import os; os._exit(9)", 9, ""),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
        ("import atexit; atexit.register(print, 'at the end')", 0, "at the end\n"),
    ],
)
def test_ends_are_those_of_the_process(forked: None, code: str, status: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text(code)
    done = run(tmp_path / "ends.py")
    assert done.returncode == status and (done.stdout + done.stderr).endswith(said)


WAITS = """
import os, signal, sys
signal.signal(signal.SIGUSR2, lambda *_: sys.exit(75))
print(os.getpid(), flush=True)
signal.pause()
"""


def test_a_signal_reaches_it_through_whoever_started_it(forked: None, tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    process = subprocess.Popen([sys.executable, str(tmp_path / "waits.py")], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert int(process.stdout.readline()) != process.pid, "it is another process"
        process.send_signal(signal.SIGUSR2)
        assert process.wait(300) == 75
    finally:
        process.kill()


def test_it_is_found_by_its_environment_as_a_rank_is_and_dies_with_its_client(forked: None, tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    env = {**os.environ, "HARNESS_RUN_ID": "forked-1", "OMPI_COMM_WORLD_RANK": "3"}
    process = subprocess.Popen([sys.executable, str(tmp_path / "waits.py")], stdout=subprocess.PIPE, text=True, env=env)
    try:
        assert process.stdout is not None
        rank = int(process.stdout.readline())
        found = processes_of("forked-1")
        assert found[rank].rank == "3" and found[rank].listens and not found[process.pid].listens
    finally:
        process.kill()
    process.wait()
    wait_for(lambda: state_of("forked-1", rank) == "gone", 60, "end of what lost its client")


def test_what_libraries_read_as_they_are_loaded_makes_a_fresh_process(forked: None, tmp_path: Path) -> None:
    (tmp_path / "look.py").write_text("import sys; print('torch' in sys.modules)")
    assert run(tmp_path / "look.py").stdout == "True\n"
    assert run(tmp_path / "look.py", env={"OMP_PROC_BIND": "true"}).stdout == "False\n"
    assert run(tmp_path / "look.py", env={"PYTHONHASHSEED": "0"}).stdout == "False\n"


@pytest.mark.fresh_start
def test_a_test_marked_so_starts_fresh_processes(tmp_path: Path) -> None:
    (tmp_path / "look.py").write_text("import sys; print('torch' in sys.modules)")
    assert run(tmp_path / "look.py").stdout == "False\n"
