"""The commands as they are typed: what is refused, in one line and with exit code 2, and what they show of a study."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import tomllib
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from search import run_study
from search.__main__ import main
from search.config import resolve_study
from search.study.storage import open_storage, without_password
from search.study.study import existing_study
from tests.conftest import wait_for
from tests.search.conftest import STUDY, Workplace

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
PRESET = ("run", "ppo-cartpole")
OWN = ("run", "study.toml")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "ppo-cartpol"), "ppo-cartpol is no study preset and no .toml file; did you mean ppo-cartpole?"),
        (("run", "nowhere.toml"), "nowhere.toml: there is no such file"),
        (("run", "broken.toml"), "broken.toml: not valid TOML"),
        ((*OWN, "study.trails=3"), "study.trails is no setting; did you mean study.trials?"),
        ((*OWN, "study.trials"), "'study.trials' is no override: expected section.key=value"),
        ((*OWN, "trial.ranks=0"), "trial.ranks must be >= 1, got 0"),
        ((*OWN, "trial.ranks=99"), "trial.ranks must be <= "),
        ((*OWN, "trial.launcher=slurmrun"), "launcher must be one of"),
        ((*OWN, "trial.preset=ppo-cartpole"), "trial: needs either preset or command, not both"),
        ((*OWN, "trial.seeds=2"), "objective.evaluations is missing"),
        ((*OWN, "space.y.low=1", "space.y.high=2"), "space.y is not used: trial.command has no {y}"),
        ((*OWN, 'trial.command=["python", "{x}", "{z}"]'), "{z}, which is no parameter of the space"),
        ((*OWN, 'trial.command=["no-such-program", "{x}"]'), "'no-such-program' is no program on the PATH"),
        ((*OWN, "study.sampler=grid"), "space.x has no finite grid"),
        ((*OWN, "space.x.low=3.0"), "space.x: `low <= high` must hold"),
        ((*OWN, "--storage", "postgresql://nobody@127.0.0.1:9/x"), "cannot be reached at 127.0.0.1:9"),
        ((*OWN, "--hostfile", "nowhere"), "hostfile nowhere does not exist"),
        ((*OWN, "--hostfile", "hosts"), "hosts line 1"),
        ((*OWN, "--hosts", "a"), "unknown argument --hosts"),
        ((*PRESET, "space.optimizer.lrr.low=1", "space.optimizer.lrr.high=2"), "did you mean optimizer.lr"),
        ((*PRESET, "space.algorithm.gamma.high=0.5"), "space.algorithm.gamma: algorithm.gamma must be >= 0, got"),
        ((*PRESET, "space.env.count.low=1", "space.env.count.high=8", "trial.overrides.algorithm.minibatch_size=1"),
         "space.env.count: env.count must be at least the number of ranks, 2"),
        ((*PRESET, "space.seed.low=1", "space.seed.high=8"), "seed cannot be searched"),
        ((*PRESET, "trial.overrides.env.id=CartPool-v1"), "env.id = 'CartPool-v1' does not exist; did you mean"),
        ((*PRESET, "trial.preset=ppo-cartpol"), "ppo-cartpol is no preset and no .toml file; did you mean"),
        ((*PRESET, "trial.overrides.run.stepz=1"), "run.stepz is no setting; did you mean run.steps?"),
        (("status", "--study", "nobody"), "there is no study 'nobody'"),
        (("best",), "required: --study"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_makes_nothing(
    words: tuple[str, ...],
    says: str,
    workplace: Workplace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(workplace.path)
    Path("broken.toml").write_text("[study\n")
    Path("hosts").write_text("localhost slots=many\n")

    code = main(words)

    printed = capsys.readouterr()
    assert code == 2 and says in printed.err, printed.err
    assert printed.err.count("\n") == 1 and printed.out == ""
    assert not Path("studies").exists()


def test_a_study_that_exists_with_another_space_or_direction_is_left_alone(workplace: Workplace) -> None:
    workplace.run("study.trials=1")
    before = workplace.trials()

    for change, says in (
        ("space.x.low=1.5", "exists with another space (x was"),
        ("study.direction=minimize", "direction"),
    ):
        printed = workplace.run(change, rc=2)
        assert says in printed and printed.count("\n") == 1
    assert workplace.trials() == before


def test_a_directory_of_another_study_of_the_same_name_is_refused(workplace: Workplace) -> None:
    workplace.run("study.trials=1")
    (workplace.path / "studies/s/study.db").unlink()

    printed = workplace.run(rc=2)

    assert "holds trials of another study" in printed and printed.count("\n") == 1


def test_a_search_is_not_started_by_a_launcher(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    assert "not to be run under mpirun" in workplace.run(rc=2)


def test_the_real_command_line_has_the_same_exit_code_and_line(workplace: Workplace) -> None:
    refused = workplace.search("run", "study.toml", "study.trials=none")
    assert refused.returncode == 2
    assert re.fullmatch(r"study\.trials must be a valid integer.*got 'none'.*\n", refused.stderr)


def test_a_dry_run_shows_a_trial_and_makes_nothing(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(workplace.path)
    assert main([*PRESET, "--dry-run", "--study", "dry"]) == 0
    shown = capsys.readouterr().out
    assert "2 ranks on localhost:0,1/" in shown and "-m harness train" in shown
    assert "algorithm.gamma = 0.9" in shown and "(x = -" in shown
    config = tomllib.loads(shown.partition("config:\n")[2].replace("\n  ", "\n").strip())
    assert config["env"]["id"] == "CartPole-v1"
    assert not Path("studies").exists()


def test_what_the_commands_show_of_a_study(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    workplace.study_file(space={"x": {"low": 0.0, "high": 1.0, "transform": "2 - x"}})
    workplace.plan(t1={"raise_at": 2}, t2={"diverge_at": 2})
    workplace.run("study.trials=4", "confirm.seeds=2")
    monkeypatch.chdir(workplace.path)
    trials = workplace.trials()
    best = max((trial for trial in trials if trial.state.name == "COMPLETE"), key=lambda trial: trial.value or 0)
    capsys.readouterr()

    assert main(["status", "--study", "s"]) == 0
    table = capsys.readouterr().out
    assert [word in table for word in ("complete", "fail", "pruned (diverged)", "confirmed: trial")] == [True] * 4

    assert main(["best", "--study", "s"]) == 0
    shown = capsys.readouterr().out
    x = best.params["x"]
    assert f"trial {best.number} with value" in shown and f"x = {2 - x:.6g} (x = {x:.6g})" in shown

    assert main(["best", "--study", "s", "--toml"]) == 2
    assert "runs a command of its own" in capsys.readouterr().err

    assert main(["retry", "--study", "s"]) == 0
    assert capsys.readouterr().out.startswith("1 failed trial is queued again")
    assert main(["retry", "--study", "s"]) == 0
    assert capsys.readouterr().out.startswith("0 failed trials")
    workplace.plan(all={})
    workplace.run("study.trials=1")
    again = workplace.trials()[4]
    assert again.params == trials[1].params and again.state.name == "COMPLETE"


def test_the_report_is_one_file_and_its_plots_are_in_the_dashboard(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    workplace.run("study.trials=4")
    monkeypatch.chdir(workplace.path)
    assert main(["report", "--study", "s"]) == 0

    path = Path(capsys.readouterr().out.strip())
    page = path.read_text()
    for title in ("History", "Importances", "Parallel coordinates", "Learning curves"):
        assert f'"text":"{title}"' in page
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)  # nothing is loaded from anywhere
    study_attrs = [key for key in system_attrs(workplace) if "plot" in key or "note" in key or "graph" in key]
    assert len(study_attrs) >= 5, study_attrs


def system_attrs(workplace: Workplace) -> dict[str, Any]:
    storage = open_storage(f"sqlite:///{workplace.path}/studies/s/study.db")
    return storage.get_study_system_attrs(existing_study("s", storage)._study_id)


@pytest.mark.slow
def test_the_dashboard_serves_a_study_that_runs_and_does_not_disturb_it(workplace: Workplace) -> None:
    pytest.importorskip("optuna_dashboard")
    workplace.plan(all={"steps": 20, "pause": 0.1})
    driver = workplace.start("study.trials=3")
    workplace.wait_for(lambda: workplace.started(0), 40, "trial")
    port = free_port()
    served = subprocess.Popen(
        workplace.command("dashboard", "--study", "s", "--port", str(port)),
        cwd=workplace.path, env=workplace.environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert served.stdout is not None
        address = re.search(r"http://127\.0\.0\.1:\d+", served.stdout.readline())
        assert address is not None
        wait_for(lambda: answers(port), 20, "dashboard")
        for _ in range(50):
            with urllib.request.urlopen(f"{address[0]}/api/studies", timeout=300) as answer:
                assert b'"s"' in answer.read()
        refused = workplace.search("dashboard", "--study", "s", "--port", str(port))
        assert refused.returncode == 2 and f"--port {port} cannot be used" in refused.stderr
    finally:
        served.send_signal(signal.SIGINT)
        assert served.wait(timeout=300) == 0
    assert driver.wait(timeout=300) == 0
    assert workplace.states() == ["COMPLETE"] * 3
    assert all(len(trial.intermediate_values) == 20 for trial in workplace.trials())


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_run_study_does_in_python_what_the_command_does(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace.path)
    result = run_study(resolve_study(STUDY), ["study.trials=2", "confirm.seeds=2"], name="py")

    assert (result.study, result.ending.status, dict(result.trials)) == ("py", "done", {"COMPLETE": 2})
    best = max(workplace.trials("py"), key=lambda trial: trial.value or 0)
    assert (result.best_trial, result.best_value, result.best_settings) == (best.number, best.value, best.params)
    assert result.confirmation is not None and len(result.confirmation.values) == 2
    assert result.directory == workplace.path / "studies" / "py"


def test_a_trials_when_in_slurm_hosts_come_from_the_allocation(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(workplace.path)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    monkeypatch.setenv("SLURM_TASKS_PER_NODE", "1(x2)")
    assert main([*PRESET, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "2 ranks on n1:0/1;n2:0/1" in shown


def test_a_storage_elsewhere_is_found_again_and_not_written_into_the_studys_config(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    url = f"sqlite:///{workplace.path}/elsewhere.db"
    workplace.run("study.trials=1", "--storage", url)
    monkeypatch.chdir(workplace.path)

    assert not list(workplace.path.glob("studies/s/*.db"))
    assert main(["status", "--study", "s"]) == 0
    assert "1 trial," in capsys.readouterr().out
    study = existing_study("s", open_storage(url))
    assert "storage" not in study.user_attrs["config"]["study"]
    assert "pass" not in without_password("postgresql://user:pass@host/db")
