"""What shells and libraries do to a launch: thousands of variables, bytes that are no text, a PATH of one's own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from harness.errors import BadInput
from harness.launching import Host, get_launcher, remote
from harness.launching.run_horovodrun import LONGEST_WORD, execute_by_words
from tests.harness.launching.conftest import Start, ended, lines_of

SCRIPT = """
sys.stdout.buffer.write("Pr\\u00fcfstand 1\\n".encode("latin-1"))
sys.stdout.flush()
for i in range(3000): print("step", i)
sys.stdout.flush()
with open(os.path.join(os.environ["NOTES"], str(rank)), "w") as notes:
    print(sum(name.startswith("SERVICE_") for name in os.environ), os.environ["PATH"], file=notes)
"""


def test_ranks_of_a_pod_with_4000_services_and_output_that_is_no_text(
    start: Start, launcher: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Horovod's forwarding thread died of the first line, and its rank waited in a later print for ever.

    What a rank says last may be missing under mpirun, and under the horovodrun that becomes one: of a rank that prints
    much and ends at once it loses the end, in about one of twenty starts on a busy machine. So ranks write down what
    they found.
    """
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")  # another environment is active
    services = {f"SERVICE_{i:04}_PORT_8080_TCP_ADDR": f"tcp://10.0.{i // 256}.{i % 256}" for i in range(4000)}

    running = start(launcher, SCRIPT, env={**services, "NOTES": str(tmp_path)})

    assert ended(running).exit_code == 0
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == [f"4000 {os.environ['PATH']}\n"] * 2
    lines = lines_of(running)
    assert lines.count("Pr\ufffdfstand 1") == 2 and lines.count("step 0") == 2
    assert launcher != "horovodrun-gloo" or lines.count("step 2999") == 2


def test_an_environment_that_does_not_fit_into_a_shell_line_to_another_host_is_refused_with_launchers_that_take_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote, "others", lambda names: [name for name in names if name == "n2"])
    gloo = get_launcher("horovodrun-gloo")
    gloo.check([Host("n2", 1)])
    monkeypatch.setenv("LONG", "x" * 130_000)
    gloo.check([Host("localhost", 2)])
    with pytest.raises(BadInput, match=r"launcher horovodrun-gloo hands .* choose launcher mpirun or horovodrun"):
        gloo.check([Host("n2", 1)])
    get_launcher("mpirun").check([Host("n2", 1)])


def test_a_shell_line_that_is_too_long_for_one_word_is_started_by_its_words() -> None:
    started: list[tuple] = []
    execve = execute_by_words(lambda *how: started.append(how))
    env = {"PATH": str(Path(sys.executable).parent)}
    name = Path(sys.executable).name
    names = " ".join(f"-x VARIABLE_{i}" for i in range(9000))
    assert len(names) > LONGEST_WORD
    execve("/bin/sh", ["/bin/sh", "-c", f"{name} {names} --prefix 'a folder'"], env)
    execve("/bin/sh", ["/bin/sh", "-c", f"{name} -x A"], env)
    (path, words, _), short = started
    assert path == str(Path(sys.executable)) and words[0] == name and len(words) == 18003 and words[-1] == "a folder"
    assert short == ("/bin/sh", ["/bin/sh", "-c", f"{name} -x A"], env)
