"""Two real ranks under each launcher: what they get, how their end is told, and that nothing outlives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from harness.errors import BadInput
from harness.launching import Host, JobSpec, ProcessJob, find_job, get_launcher, launcher_names, local_hosts
from harness.launching.horovodrun import GLOO, MPI, horovod_has
from harness.launching.outcome import UNKNOWN, split_output
from harness.launching.processes import processes_of
from tests.conftest import wait_for
from tests.harness.launching.conftest import PREAMBLE, Start, ended, lines_of, output_of, printed

pytestmark = pytest.mark.fresh_start
# Deaf to polite requests, and with a worker in a session of its own, as environment workers may have.
DEAF = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("ready", flush=True)
time.sleep(600)
"""


def test_ranks_get_the_environment_whole_and_their_lines_are_tagged(start: Start, launcher: str) -> None:
    odd = "hostA:0,1/4;hostB:2,3/4 \"quoted\" 'too' $HOME"
    running = start(launcher, "print(rank, repr(os.environ['ODD']), flush=True)", env={"ODD": odd})

    outcome = ended(running)

    _, ranks = split_output(output_of(running))
    assert ranks == {rank: [f"{rank} {odd!r}"] for rank in (0, 1)}
    assert outcome.exit_code == 0


@pytest.mark.parametrize(
    ("does", "code", "said"),
    [
        ("sys.exit(75)", 75, "ended with exit code 75: last words of 1"),
        ("sys.exit('no data here')", 1, "ended with exit code 1: no data here"),
        ("raise ValueError('sour rate')", 1, "ended with exit code 1: ValueError: sour rate"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "was killed by SIGKILL"),
    ],
)
def test_the_rank_that_ends_a_job_is_named(start: Start, launcher: str, does: str, code: int, said: str) -> None:
    running = start(launcher, f"print('last words of', rank, flush=True)\nif rank == 1: {does}\ntime.sleep(600)")

    outcome = ended(running)

    assert (outcome.exit_code, outcome.failed_rank) == (code, 1)
    assert outcome.describe() == f"rank 1 on {os.uname().nodename} {said}"
    assert "last words of 1" in outcome.last_lines


def test_a_program_that_does_not_exist_is_told(start: Start, launcher: str) -> None:
    outcome = ended(start(launcher, "", "no-such-program"))
    assert outcome.exit_code != 0
    assert "no-such-program" in " ".join(outcome.last_lines)


def test_the_end_leaves_nothing_that_carries_the_run_id(start: Start, launcher: str) -> None:
    running = start(launcher, DEAF)
    printed(running, "ready")
    carriers = processes_of(running.run_id)
    assert len([process for process in carriers.values() if process.rank is not None]) >= 4

    before = time.monotonic()
    assert running.end(grace=2) == []

    assert time.monotonic() - before < 60
    assert processes_of(running.run_id) == {}
    assert not any(Path(f"/proc/{pid}/cmdline").exists() and alive(pid) for pid in carriers)
    assert running.poll() is not None


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_ranks_that_a_killed_launcher_left_are_ended(start: Start, launcher: str) -> None:
    running = start(launcher, DEAF)
    printed(running, "ready")
    os.kill(running.pid, signal.SIGKILL)
    assert "the launcher was killed by SIGKILL" in ended(running).describe()

    assert running.end(grace=2) == []
    assert processes_of(running.run_id) == {}


def test_a_stop_request_reaches_each_listening_rank_once_and_nothing_else(start: Start, launcher: str) -> None:
    """The ranks run below a shell, which the signal would kill, and have a worker that inherits their handler."""
    running = start(
        launcher,
        """
        received = []
        go = os.path.join(os.path.dirname(__file__), "listen")
        print("started", flush=True)
        while not os.path.exists(go): time.sleep(0.05)
        signal.signal(signal.SIGUSR2, lambda *_: received.append(os.getpid()))
        worker = os.fork()
        if worker == 0:
            while True: time.sleep(0.05); received and print("the worker was told", flush=True)
        print("listening", flush=True)
        while not received: time.sleep(0.05)
        time.sleep(1)
        print("told", len(received), "times", flush=True)
        os.kill(worker, signal.SIGKILL)
        sys.exit(75)
        """.replace("\n        ", "\n"),
        "sh",
        "-c",
        '"$@"; exit $?',
        "wrapper",
    )
    printed(running, "started")
    assert running.request_stop() == 0  # nobody listens: the signal would have killed them
    (Path(running.save()["output"]).parent / "listen").touch()
    printed(running, "listening")

    assert running.request_stop() == 2
    assert running.request_stop() == 0

    assert ended(running).exit_code == 75
    assert "the worker was told" not in lines_of(running)
    assert "told 1 times" in lines_of(running)


def test_two_jobs_run_at_once_unbound_and_one_is_ended_without_the_other(start: Start) -> None:
    script = "print('cores', len(os.sched_getaffinity(0)), flush=True)\ntime.sleep(600)"
    first, second = start("horovodrun", script), start("mpirun", script)
    for running in (first, second):
        printed(running, f"cores {len(os.sched_getaffinity(0))}")

    first.end(grace=2)

    assert processes_of(first.run_id) == {}
    assert second.poll() is None
    assert len([process for process in processes_of(second.run_id).values() if process.rank]) == 2


def test_a_launcher_works_inside_an_outer_mpirun(start: Start, launcher: str, tmp_path: Path) -> None:
    """A driver that is itself a rank: its launches must not take themselves for parts of the outer one."""
    driver = f"""
    import sys, time
    from pathlib import Path
    from harness.launching import JobSpec, get_launcher, local_hosts
    job = JobSpec(("sh", "-c", "echo inner"), 2, tuple(local_hosts(2)), {{}}, "inner-{os.getpid()}",
              Path({str(tmp_path / "inner.log")!r}), Path.cwd())
    running = get_launcher({launcher!r}).start(job)
    while running.poll() is None: time.sleep(0.05)
    running.end()
    sys.exit(running.poll().exit_code)
    """
    outer = start("mpirun", textwrap.dedent(driver), ranks=1, env={"HOROVOD_RANK": "0"})
    outer_said = ended(outer).describe()
    assert outer_said == "ended well", outer_said + output_of(outer)
    assert (tmp_path / "inner.log").read_text().count("inner") == 2


def start_and_die(launcher: str, script: str, folder: Path) -> ProcessJob:
    """A driver starts a job, notes it down and is killed; another process, this one, finds the job."""
    (folder / "rank.py").write_text(PREAMBLE + script)
    driver = f"""
    import os, signal, sys
    from pathlib import Path
    from harness.files import write_json
    from harness.launching import JobSpec, get_launcher, local_hosts
    folder = Path({str(folder)!r})
    job = JobSpec((sys.executable, str(folder / "rank.py")), 2, tuple(local_hosts(2)), {{}}, "lost-{os.getpid()}",
              folder / "output.log", folder)
    write_json(folder / "job.json", get_launcher({launcher!r}).start(job).save())
    os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(driver)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return find_job(json.loads((folder / "job.json").read_text()))


def test_a_job_is_found_again_after_its_drivers_death(launcher: str, tmp_path: Path) -> None:
    running = start_and_die(launcher, DEAF, tmp_path)
    printed(running, "ready")
    assert running.poll() is None

    assert running.end(grace=2) == []

    assert processes_of(running.run_id) == {}
    assert running.poll() is not None


def test_how_a_found_job_ended_is_read_from_its_output(launcher: str, tmp_path: Path) -> None:
    running = start_and_die(launcher, "time.sleep(1)\nif rank == 1: sys.exit(3)\ntime.sleep(600)", tmp_path)
    try:
        assert ended(running).describe() == f"rank 1 on {os.uname().nodename} ended with exit code 3"
    finally:
        running.end()


def test_a_found_job_that_left_no_word_has_an_unknown_exit_code(tmp_path: Path) -> None:
    running = start_and_die("mpirun", "", tmp_path)
    assert ended(running).exit_code == UNKNOWN
    assert running.end() == []


def test_another_process_with_the_launchers_old_id_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        saved = {"launcher": "mpirun", "pid": stranger.pid, "start_time": 1, "run_id": "long-gone"}
        saved |= {"host": os.uname().nodename, "hosts": [], "output": str(tmp_path / "none"), "output_start": 0}
        running = find_job(saved)
        assert running.poll() is not None
        assert running.end() == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_job_of_another_host_is_refused() -> None:
    saved = {"launcher": "mpirun", "pid": 1, "start_time": 1, "run_id": "r", "host": "elsewhere", "hosts": []}
    with pytest.raises(BadInput, match="job r was started on host elsewhere"):
        find_job(saved)


def test_an_outcome_is_read_from_this_jobs_part_of_the_output_alone(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "shared.log"
    log.write_text("\n  Process name: [[1,1],0]\n  Exit code:    9\n")
    command = ("sh", "-c", "exit 4")
    job = JobSpec(command, 1, tuple(local_hosts(1)), {}, f"shared-{os.getpid()}", log, tmp_path)
    running = get_launcher("mpirun").start(job)
    assert ended(running).exit_code == 4
    assert log.read_text().startswith("\n  Process name: [[1,1],0]\n  Exit code:    9\n")
    assert running.end() == []


def test_more_ranks_than_slots_start_nothing(tmp_path: Path) -> None:
    job = JobSpec(("true",), 3, (Host("localhost", 2),), {}, "too-many", tmp_path / "log", tmp_path)
    with pytest.raises(BadInput, match="3 ranks are more than the 2 slots"):
        get_launcher("mpirun").start(job)
    assert not (tmp_path / "log").exists()


def test_every_launcher_can_work_here() -> None:
    for name in launcher_names():
        get_launcher(name).check()


def test_an_unknown_launcher_is_refused_with_the_known_ones() -> None:
    names = "horovodrun, horovodrun-gloo, mpirun, pool, pool-gloo, pool-mpirun, or module:Class of your own"
    with pytest.raises(BadInput, match=f"launcher must be one of {names}, got 'mpiexec'"):
        get_launcher("mpiexec")


def test_a_missing_program_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    for name, program in (("mpirun", "mpirun"), ("horovodrun", "horovodrun"), ("horovodrun-gloo", "horovodrun")):
        with pytest.raises(BadInput, match=f"launcher {name}: there is no {program} on the PATH; `make install`"):
            get_launcher(name).check()


def test_a_horovod_without_the_controller_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "horovod" / "torch").mkdir(parents=True)
    (tmp_path / "horovod" / "__init__.py").touch()
    for name in [name for name in sys.modules if name.partition(".")[0] == "horovod"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadInput, match="Horovod is not installed for PyTorch"):
        get_launcher("horovodrun").check()

    (tmp_path / "horovod" / "torch" / "mpi_lib_v2.x.so").write_bytes(b"..N7horovod6common14GlooControllerE..")

    assert (horovod_has(MPI), horovod_has(GLOO)) == (False, True)
    with pytest.raises(BadInput, match="Horovod was built without MPI"):
        get_launcher("horovodrun").check()
    get_launcher("horovodrun-gloo").check()


def test_a_process_that_only_speaks_of_a_run_does_not_carry_it(start: Start) -> None:
    """Its id in an argument, or as the beginning of another run's id, is not the run's."""
    env = {**os.environ, "HARNESS_RUN_ID": "run-10"}
    other = subprocess.Popen(["sleep", "600"], env=env)
    try:
        wait_for(lambda: processes_of("run-10"), 10, "process of run-10")
        assert processes_of("run-1") == {}
    finally:
        other.kill()
        other.wait()
