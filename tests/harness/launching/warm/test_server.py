"""A server without modules: whom it forks, how ends are told, and how long it lives. What a fork itself finds is
compared with a fresh process in `tests/forkserver/`."""

from __future__ import annotations

import marshal
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from harness.launching import ProcessJob, processes
from harness.launching.warm import client, owner
from harness.launching.warm.owner import ForkedProcess, WarmServer
from tests.conftest import wait_for
from tests.forkserver import ADDRESS

pytestmark = pytest.mark.fresh_start


@pytest.fixture
def server() -> Iterator[WarmServer]:
    made = WarmServer(os.environ, modules=())
    yield made
    made.close()


def fork(server: WarmServer, script: Path, *arguments: str, noted: bool = False, **env: str) -> ForkedProcess | None:
    environ = {**{name: value for name, value in os.environ.items() if name != ADDRESS}, **env}
    with script.with_suffix(".out").open("ab") as output:
        return server.fork([sys.executable, str(script), *arguments], environ, script.parent, output, noted)


def ended(process: ForkedProcess | None) -> int | None:
    assert process is not None, "it was not forked"
    wait_for(lambda: process.poll() is not None, 30, "end")
    return process.poll()


@pytest.fixture
def importing(tmp_path: Path) -> Iterator[WarmServer]:
    """A server whose imports end once there is a file `imported`."""
    (tmp_path / "awaited.py").write_text(AWAITED)
    made = WarmServer({**os.environ, "PYTHONPATH": str(tmp_path)}, modules=["awaited"])
    yield made
    made.process.kill()
    made.close()


AWAITED = """
import time
from pathlib import Path
while not Path(__file__).with_name("imported").exists():
    time.sleep(0.02)
"""


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def asks(server: WarmServer, script: Path) -> socket.socket:
    """A client that has said what it wants."""
    environ = {name: value for name, value in os.environ.items() if name != ADDRESS}
    environ["PYTHONPATH"] = str(script.parent)
    message = marshal.dumps(client.request([str(script)], environ, script.parent, outlives=True))
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(300)
    connection.connect(server.address)
    with script.with_suffix(".out").open("ab") as output:
        socket.send_fds(connection, [len(message).to_bytes(4, "little")], [output.fileno()] * 3)
    connection.sendall(message)
    return connection


def test_a_client_that_left_while_the_server_imported_is_not_forked_for(
    importing: WarmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "once.py"
    script.write_text("print('ran')")
    with monkeypatch.context() as patch:
        patch.setattr(client, "ANSWER_SECONDS", 0.1)
        assert fork(importing, script, PYTHONPATH=str(tmp_path)) is None, "it starts fresh, since no answer came"
    (tmp_path / "imported").touch()
    assert ended(fork(importing, script, PYTHONPATH=str(tmp_path))) == 0
    wait_for(lambda: not children_of(importing.process.pid), 30, "end of all that was forked")
    assert script.with_suffix(".out").read_text() == "ran\n"


def test_what_was_forked_for_a_client_that_cannot_be_told_is_killed(importing: WarmServer, tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    (tmp_path / "x.py").touch()
    try:
        with asks(importing, tmp_path / "waits.py") as deaf:
            deaf.shutdown(socket.SHUT_RD)
            (tmp_path / "imported").touch()
            assert ended(fork(importing, tmp_path / "x.py", PYTHONPATH=str(tmp_path))) == 0
            assert not children_of(importing.process.pid)
    finally:
        (tmp_path / "go").touch()


def test_a_server_whose_owner_is_gone_forks_nothing_for_those_who_waited(importing: WarmServer, tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    try:
        with asks(importing, tmp_path / "waits.py") as waiting:
            importing._lifeline.shutdown(socket.SHUT_WR)
            (tmp_path / "imported").touch()
            with suppress(ConnectionResetError):
                assert waiting.recv(4) == b""
        wait_for(lambda: not importing.lives, 30, "end of the server")
    finally:
        (tmp_path / "go").touch()


@pytest.fixture
def stopped(server: WarmServer) -> Iterator[Callable[[], None]]:
    """Stops the server, until the test ends."""
    yield lambda: server.process.send_signal(signal.SIGSTOP)
    server.process.send_signal(signal.SIGCONT)


def test_a_server_that_is_stopped_holds_nobody_up_and_forks_nothing_later(
    server: WarmServer, stopped: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "once.py"
    script.write_text("print('ran')")
    assert ended(fork(server, script)) == 0
    stopped()
    with monkeypatch.context() as patch:
        patch.setattr(owner, "READY_SECONDS", 0.1)
        assert fork(server, script) is None
    server.process.send_signal(signal.SIGCONT)
    assert ended(fork(server, script)) == 0
    assert script.with_suffix(".out").read_text() == "ran\n" * 2


def test_a_job_can_be_read_only_once_its_end_is_known(
    server: WarmServer, stopped: Callable[[], None], tmp_path: Path
) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    try:
        process = fork(server, tmp_path / "waits.py")
        assert process is not None
        saved = {"pid": process.pid, "run_id": "x", "hosts": [], "output": str(tmp_path / "waits.out")}
        job = ProcessJob({**saved, "output_start": 0, "start_time": None}, process)
        stopped()
    finally:
        (tmp_path / "go").touch()
    stat = Path(f"/proc/{process.pid}/stat")
    wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z", 30, "end of the process")
    end = job.descriptor()
    assert end is not None and job.poll() is None
    assert select.select([end], [], [], 0.0)[0] == [], "whoever waits for it would wake at once, again and again"
    server.process.send_signal(signal.SIGCONT)
    assert select.select([end], [], [], 300)[0] == [end]
    wait_for(lambda: job.poll() is not None, 30, "end of the job")
    assert job.descriptor() is None


def test_a_module_that_changed_on_disk_is_seen_by_the_next_process(server: WarmServer, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import mine; print(mine.VALUE)")
    for value in ("1", "'two'"):
        (tmp_path / "mine.py").write_text(f"VALUE = {value}")
        assert ended(fork(server, script)) == 0
    assert script.with_suffix(".out").read_text() == "1\ntwo\n"


@pytest.mark.parametrize(
    ("code", "ends", "note"),
    [
        ("pass", 0, ""),
        ("raise SystemExit(75)", 75, "\nProcess 0 exit with status code 75.\n"),
        ("import os; os._exit(3)", 3, "\nProcess 0 exit with status code 3.\n"),
        ("import os; os.kill(os.getpid(), 9)", -9, "\nProcess 0 exit with status code 137.\n"),
    ],
)
def test_the_end_is_told_and_noted_in_its_output(
    server: WarmServer, tmp_path: Path, code: str, ends: int, note: str
) -> None:
    script = tmp_path / "ends.py"
    script.write_text(code)
    assert ended(fork(server, script, noted=True)) == ends
    assert script.with_suffix(".out").read_text() == note


def test_what_must_start_fresh_is_refused_with_the_reason(server: WarmServer, tmp_path: Path) -> None:
    script = tmp_path / "x.py"
    script.touch()
    assert fork(server, script, KMP_AFFINITY="none") is None
    assert fork(server, script, PYTHONPATH="/elsewhere") is None
    (tmp_path / "socket.py").touch()
    assert fork(server, script) is None
    server.listen()
    assert sorted(server.refusals) == [
        f"{tmp_path} has a module socket of its own",
        "another KMP_AFFINITY than when libraries were loaded",
        "another PYTHONPATH, or from another folder",
    ]


WAITS = """
import os, sys, time
print(os.getpid(), flush=True)
while not os.path.exists("go"):
    time.sleep(0.02)
sys.exit(7)
"""


def test_a_server_that_is_killed_harms_nothing_that_it_has_forked(server: WarmServer, tmp_path: Path) -> None:
    script = tmp_path / "waits.py"
    script.write_text(WAITS)
    process = fork(server, script)
    server.process.kill()
    try:
        wait_for(lambda: not server.lives, 30, "end of the server")
        assert process is not None and process.poll() is None
    finally:
        (tmp_path / "go").touch()
    assert ended(process) == 7, "it tells its end itself"
    assert fork(server, script) is None


def test_its_client_becomes_a_fresh_process_where_there_is_no_server(tmp_path: Path) -> None:
    command = [sys.executable, "-S", "-E", str(client.__file__), str(tmp_path / "gone")]
    done = subprocess.run([*command, sys.executable, "-S", "-c", "print('fresh')"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "fresh\n")


OWNER = """
import os, sys
from pathlib import Path
from harness.launching.warm.owner import WarmServer
server = WarmServer(os.environ, modules=())
if sys.argv[1] == "busy":
    with open("out", "wb") as output:
        forked = server.fork([sys.executable, "waits.py"], dict(os.environ), Path.cwd(), output, False)
print(server.process.pid, server.folder, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["idle", "busy"])
def test_it_ends_with_its_owner_once_all_that_it_has_forked_has_ended(kind: str, tmp_path: Path) -> None:
    (tmp_path / "owner.py").write_text(OWNER)
    (tmp_path / "waits.py").write_text(WAITS)
    pipe = subprocess.PIPE
    holder = subprocess.Popen([sys.executable, "owner.py", kind], cwd=tmp_path, stdin=pipe, stdout=pipe, text=True)
    assert holder.stdout is not None
    try:
        pid, folder = holder.stdout.readline().split()
        holder.kill()
        holder.wait()
        if kind == "busy":
            wait_for((tmp_path / "out").read_text, 30, "line of the child")
            child = int((tmp_path / "out").read_text())
            assert processes.start_time(int(pid)) is not None and processes.start_time(child) is not None
    finally:
        (tmp_path / "go").touch()
        holder.kill()
    wait_for(lambda: processes.start_time(int(pid)) is None, 30, "end of the server")
    assert not Path(folder).exists()


def test_it_costs_nothing_while_it_waits(server: WarmServer, tmp_path: Path) -> None:
    (tmp_path / "x.py").touch()
    ended(fork(server, tmp_path / "x.py"))
    before, began = ticks(server.process.pid), time.monotonic()
    wait_for(lambda: time.monotonic() > began + 1, 2, "second")
    assert ticks(server.process.pid) - before <= 1


def ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_another_source_or_another_package_is_another_stamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = tmp_path / "site-packages"
    packages.mkdir()
    monkeypatch.syspath_prepend(str(packages))
    before = owner.code_stamp()
    assert owner.code_stamp() == before
    (packages / "new-1.0.dist-info").mkdir()
    assert owner.code_stamp() != before


def test_a_client_that_is_killed_ends_what_stands_for_it(server: WarmServer, tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    command = [sys.executable, "-S", "-E", str(client.__file__), server.address, sys.executable, "waits.py"]
    env = {name: value for name, value in os.environ.items() if name != ADDRESS}
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=env)
    try:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert child != process.pid
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_for(lambda: processes.start_time(child) is None, 30, "end of the child")
    finally:
        process.kill()
        (tmp_path / "go").touch()
