"""Whole studies of two real ranks per trial: what becomes of a trial, and that nothing is lost or counted twice."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import time

import pytest

from harness.launching.processes import processes_of
from search.study.storage import open_storage
from search.study.study import existing_study
from tests.search.conftest import Workplace


def test_every_trial_is_a_job_of_two_ranks_and_its_result_is_in_the_study(workplace: Workplace) -> None:
    printed = workplace.run("study.trials=2")

    trials = workplace.trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE"]
    for trial in trials:
        assert trial.value == trial.params["x"] * 4
        assert trial.intermediate_values == {step: trial.params["x"] * step for step in (1, 2, 3, 4)}
        assert sorted(line["rank"] for line in workplace.started(trial.number)) == [0, 1]
        notes = trial.user_attrs
        assert (notes["ranks"], notes["hosts"], notes["settings"]) == (2, [socket.gethostname()], trial.params)
        assert notes["seconds"] > 0
        directory = workplace.path / "studies" / "s" / f"trial-{trial.number:05d}"
        assert {"config.toml", "job.json", "reports.jsonl", "output.log", "seed-0"} <= set(os.listdir(directory))
    assert "best value" in printed and "search dashboard --study s" in printed


def test_running_a_study_again_adds_trials_and_other_parameters(workplace: Workplace) -> None:
    workplace.run("study.trials=2")
    workplace.run("study.trials=1")

    xs = [trial.params["x"] for trial in workplace.trials()]
    assert len(xs) == 3 and len(set(xs)) == 3


def test_a_pruned_trial_leaves_on_both_ranks_and_is_told_with_its_last_report(workplace: Workplace) -> None:
    workplace.study_file(study={"trials": 2, "pruner": {"name": "threshold", "lower": 1000, "n_warmup_steps": 3}})
    workplace.plan(all={"steps": 100, "pause": 0.1})

    printed = workplace.run("study.trials=1", rc=1)  # nothing was completed, so there is no best

    (trial,) = workplace.trials()
    assert trial.state.name == "PRUNED"
    assert 3 <= max(trial.intermediate_values) < 100
    assert trial.value == trial.intermediate_values[max(trial.intermediate_values)]
    assert sorted((line["rank"], line["end"]) for line in workplace.log() if "end" in line) == [
        (0, "pruned"),
        (1, "pruned"),
    ]
    assert "trial 0 pruned at step" in printed


def test_a_verdict_that_is_not_obeyed_is_enforced(workplace: Workplace) -> None:
    workplace.study_file(study={"pruner": {"name": "threshold", "lower": 1000}}, trial={"grace_seconds": 0.5})
    workplace.plan(all={"steps": 1000, "pause": 0.1, "deaf": True})

    workplace.run("study.trials=1", rc=1)

    (trial,) = workplace.trials()
    assert trial.state.name == "PRUNED" and "did not stop" in trial.user_attrs["reason"]
    assert not processes_of(workplace.started(0)[0]["run_id"])


def test_a_killed_rank_fails_its_trial_alone(workplace: Workplace) -> None:
    """One rank of trial 0 dies by SIGKILL while trial 1 runs beside it; the study goes on."""
    workplace.plan(t0={"kill_at": 2}, t1={"steps": 30, "pause": 0.1})

    printed = workplace.run("study.trials=3", *workplace.slots(4))

    killed, neighbour, following = workplace.trials()
    assert killed.state.name == "FAIL"
    assert "rank 1" in killed.user_attrs["reason"] and "SIGKILL" in killed.user_attrs["reason"]
    assert "the last words of rank 1" in killed.user_attrs["last_lines"]
    assert not processes_of(workplace.started(0)[0]["run_id"])
    assert (neighbour.state.name, len(neighbour.intermediate_values)) == ("COMPLETE", 30)
    assert following.state.name == "COMPLETE"
    assert "trial 0 failed at step 1" in printed and "SIGKILL" in printed


def test_two_trials_at_once_are_on_disjoint_slots_and_their_ranks_on_the_slots_cores(workplace: Workplace) -> None:
    workplace.plan(all={"steps": 40, "pause": 0.1})

    workplace.run("study.trials=2", *workplace.slots(4))

    begun = {trial: max(line["start"] for line in workplace.started(trial)) for trial in (0, 1)}
    ended = {
        trial: min(line["at"] for line in workplace.log() if line["trial"] == trial and "at" in line)
        for trial in (0, 1)
    }
    assert begun[0] < ended[1] and begun[1] < ended[0]
    slots = {tuple(trial.user_attrs["slots"].split("/")) for trial in workplace.trials()}
    assert slots == {("localhost:0,1", "4"), ("localhost:2,3", "4")}
    here = sorted(os.sched_getaffinity(0))
    for line in workplace.started(0):
        share = here[line["rank"] * len(here) // 4 : (line["rank"] + 1) * len(here) // 4]
        assert line["cores"] == (share or [here[line["rank"] % len(here)]])


@pytest.mark.slow
def test_a_silent_trial_is_ended_and_fails(workplace: Workplace) -> None:
    workplace.plan(t0={"hang_at": 3})

    workplace.run("study.trials=2", "trial.max_minutes=0.15")

    silent, following = workplace.trials()
    assert silent.state.name == "FAIL"
    assert silent.user_attrs["reason"] == "reported nothing for 0.15 minutes (trial.max_minutes)"
    assert not processes_of(workplace.started(0)[0]["run_id"])
    assert following.state.name == "COMPLETE"


def test_divergence_is_told_as_pruned_whether_or_not_something_was_reported(workplace: Workplace) -> None:
    workplace.plan(t0={"diverge_at": 3}, t1={"diverge_at": 1}, t2={"null_at": 2, "steps": 50})

    workplace.run("study.trials=3", rc=1)

    late, early, null = workplace.trials()
    assert [late.state.name, early.state.name, null.state.name] == ["PRUNED"] * 3
    assert late.value == late.params["x"] * 2 and late.user_attrs["reason"] == "the loss is nan"
    assert early.value is None and early.user_attrs["outcome"] == "diverged"
    assert null.intermediate_values[1] == null.params["x"] and "not finite" in null.user_attrs["reason"]


@pytest.mark.slow
def test_divergence_as_failure_or_as_the_worst_value(workplace: Workplace) -> None:
    workplace.plan(t1={"diverge_at": 2})
    workplace.run("study.trials=2", "objective.on_divergence=worst")
    first, diverged = workplace.trials()
    seen = [*first.intermediate_values.values(), *diverged.intermediate_values.values()]
    assert diverged.state.name == "COMPLETE" and diverged.value == min(seen)

    workplace.plan(t2={"diverge_at": 1})
    workplace.run("study.trials=1", "objective.on_divergence=fail")
    assert workplace.states()[2] == "FAIL"


def test_three_faults_of_one_cause_in_a_row_stop_the_study(workplace: Workplace) -> None:
    workplace.plan(all={"raise_at": 1})

    printed = workplace.run("study.trials=20", rc=1)

    assert workplace.states() == ["FAIL"] * 3
    assert "3 trials in a row failed before a report" in printed and "RuntimeError: trial 2 cannot go on" in printed


@pytest.mark.slow
def test_faults_beside_a_healthy_trial_stop_the_study_too_and_its_parameters_are_kept(workplace: Workplace) -> None:
    workplace.plan(all={"raise_at": 1}, t0={"steps": 600, "pause": 0.1})

    workplace.run("study.trials=20", *workplace.slots(4), rc=1)

    assert workplace.states() == ["FAIL"] * 4 + ["WAITING"]
    assert workplace.trials()[4].user_attrs["again"] == 0


@pytest.mark.slow
def test_failures_after_a_report_do_not_stop_the_study(workplace: Workplace) -> None:
    workplace.plan(t0={"raise_at": 2}, t1={"raise_at": 2}, t2={"raise_at": 2}, t3={"raise_at": 1})

    workplace.run("study.trials=5")

    assert workplace.states() == ["FAIL"] * 4 + ["COMPLETE"]


@pytest.mark.fresh_start
def test_a_driver_that_was_killed_and_comes_back_holds_each_trial_once(workplace: Workplace) -> None:
    """Of the trials that ran when it was killed, one is still running, one has ended and one was killed meanwhile."""
    workplace.plan(t0={"steps": 90, "pause": 0.1}, t1={"steps": 10, "pause": 0.1}, t2={"steps": 600, "pause": 0.1})
    slots = workplace.slots(6)
    driver = workplace.start("study.trials=5", *slots)
    workplace.wait_for(lambda: len([line for line in workplace.log() if "start" in line]) == 6, 30, "three trials")
    time.sleep(0.5)
    driver.kill()
    driver.wait()
    workplace.wait_for(lambda: [line for line in workplace.log() if line["trial"] == 1 and "end" in line], 30, "an end")
    for line in workplace.started(2):
        os.kill(line["pid"], signal.SIGKILL)

    printed = workplace.run("study.trials=5", *slots)

    trials = workplace.trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert [len(workplace.started(trial)) for trial in range(5)] == [2] * 5
    assert list(trials[0].intermediate_values) == list(range(1, 91))
    assert trials[1].value == trials[1].params["x"] * 10
    assert "trial 0 was running when its driver ended: its job is watched again" in printed
    slots_of = [trial.user_attrs["slots"] for trial in trials]
    assert slots_of[0] not in slots_of[3:], "trial 0 runs on, and kept its own"


@pytest.mark.slow
@pytest.mark.fresh_start
def test_a_trial_whose_host_is_gone_is_told_as_failed_and_queued_again(workplace: Workplace) -> None:
    """As after a batch job that was requeued onto another node: nothing of it can be seen from here."""
    workplace.plan(t0={"steps": 600, "pause": 0.1})
    driver = workplace.start("study.trials=2")
    workplace.wait_for(lambda: (workplace.path / "studies/s/trial-00000/reports.jsonl").exists(), 30, "a report")
    driver.kill()
    driver.wait()
    for line in workplace.started(0):
        os.kill(line["pid"], signal.SIGKILL)
    folder = workplace.path / "studies" / "s" / "trial-00000"
    job = json.loads((folder / "job.json").read_text().replace(f'"{socket.gethostname()}"', '"elsewhere"'))
    (folder / "job.json").write_text(json.dumps(job))

    refused = workplace.run("study.trials=2", rc=2)
    assert "elsewhere" in refused and "trial.max_minutes" in refused

    hours_ago = time.time() - 7200
    for path in folder.rglob("*"):
        os.utime(path, (hours_ago, hours_ago))
    workplace.plan()
    workplace.run("study.trials=2")
    trials = workplace.trials()
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE"]
    assert "host is gone" in trials[0].user_attrs["reason"] and trials[1].params == trials[0].params


def test_a_trial_that_was_asked_for_but_never_launched_is_launched_by_the_next_driver(workplace: Workplace) -> None:
    workplace.run("study.trials=1")
    existing_study("s", open_storage(f"sqlite:///{workplace.path}/studies/s/study.db")).ask()

    workplace.run("study.trials=1")

    assert workplace.states() == ["COMPLETE"] * 2
    assert len(workplace.started(1)) == 2


@pytest.mark.slow
def test_a_second_driver_is_refused(workplace: Workplace) -> None:
    workplace.plan(all={"steps": 100, "pause": 0.1})
    driver = workplace.start("study.trials=1")
    workplace.wait_for(lambda: workplace.started(0), 30, "trial")

    refused = workplace.search("run", "study.toml")

    assert refused.returncode == 2 and "is being run already, by process" in refused.stderr
    driver.terminate()
    assert driver.wait(timeout=300) == 75


def test_a_stop_request_loses_no_parameters_and_the_next_run_goes_on(workplace: Workplace) -> None:
    workplace.plan(t0={}, t1={"steps": 600, "pause": 0.1})
    driver = workplace.start("study.trials=4")
    workplace.wait_for(lambda: workplace.started(1), 30, "second trial")
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(timeout=300) == 75
    assert workplace.states() == ["COMPLETE", "FAIL", "WAITING"]
    assert not processes_of(workplace.started(1)[0]["run_id"])

    workplace.run("study.trials=4")

    trials = workplace.trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert trials[2].params == trials[1].params and trials[2].user_attrs["again"] == 1


def test_a_second_stop_request_ends_at_once(workplace: Workplace) -> None:
    workplace.plan(all={"steps": 6000, "pause": 0.1, "deaf": True})
    driver = workplace.start("study.trials=1", "trial.grace_seconds=600")
    workplace.wait_for(lambda: workplace.started(0), 30, "trial")
    driver.send_signal(signal.SIGINT)
    time.sleep(0.5)
    driver.send_signal(signal.SIGINT)

    assert driver.wait(timeout=300) == 75
    assert workplace.states() == ["FAIL", "WAITING"]
    assert not processes_of(workplace.started(0)[0]["run_id"])


def test_several_seeds_are_one_value_and_prune_across(workplace: Workplace) -> None:
    workplace.study_file(
        trial={"seeds": 3},
        objective={"evaluations": 4, "aggregate": "mean"},
        study={"pruner": {"name": "threshold", "upper": 1e9, "n_warmup_steps": 5}},
    )
    workplace.run("study.trials=1")
    (trial,) = workplace.trials()
    x = trial.params["x"]
    assert trial.user_attrs["values"] == [4 * x, 4 * x + 1, 4 * x + 2]
    assert abs(trial.value - (4 * x + 1)) < 1e-9
    assert trial.intermediate_values[5] == x + 1 and len(trial.intermediate_values) == 12
    seeds = [line["seed"] for line in workplace.started(0) if line["rank"] == 0]
    assert len(set(seeds)) == 3 and seeds == trial.user_attrs["seeds"]


def test_a_trial_pruned_at_the_end_of_its_first_seed_does_not_begin_the_next(workplace: Workplace) -> None:
    workplace.study_file(
        trial={"seeds": 2},
        objective={"evaluations": 4},
        study={"pruner": {"name": "threshold", "lower": 1000, "n_warmup_steps": 4}},
    )
    workplace.plan(all={"deaf": True})

    workplace.run("study.trials=1", rc=1)

    (trial,) = workplace.trials()
    assert trial.state.name == "PRUNED" and max(trial.intermediate_values) == 4
    assert {line["index"] for line in workplace.log()} == {0}


def test_the_best_is_confirmed_on_seeds_that_the_search_never_used(workplace: Workplace) -> None:
    printed = workplace.run("study.trials=2", "confirm.seeds=3", *workplace.slots(4))

    best = max(workplace.trials(), key=lambda trial: trial.value or 0)
    confirmed = json.loads((workplace.path / "studies/s/confirm/confirmation.json").read_text())
    searched = {seed for trial in workplace.trials() for seed in trial.user_attrs["seeds"]}
    ran = {line["seed"] for line in workplace.log() if line["trial"] == -1}
    assert ran == set(confirmed["seeds"]) and len(ran) == 3 and not ran & searched
    x = best.params["x"]
    assert confirmed["values"] == [4 * x, 4 * x + 1, 4 * x + 2]  # the script adds the index of the seed
    assert abs(confirmed["mean"] - (4 * x + 1)) < 1e-9 and abs(confirmed["std"] - 1) < 1e-9
    assert all((workplace.path / f"studies/s/confirm/seed-{index}/result.json").exists() for index in range(3))
    assert f"confirmation: {4 * x + 1:.6g} ± 1 over 3 unseen seeds" in printed


@pytest.mark.slow
def test_only_a_new_best_is_confirmed_anew_and_the_confirmation_before_is_kept(workplace: Workplace) -> None:
    workplace.plan(t1={"raise_at": 2}, t2={"steps": 8})  # twice the steps of trial 0, hence the best
    workplace.run("study.trials=1", "confirm.seeds=1")

    assert "trial 0 was confirmed before" in workplace.run("study.trials=1", "confirm.seeds=1")
    assert len(workplace.started(-1)) == 2  # two ranks of one run
    assert "confirming trial 2" in workplace.run("study.trials=1", "confirm.seeds=1")
    kept = json.loads((workplace.path / "studies/s/confirm-of-0-1/confirmation.json").read_text())
    now = json.loads((workplace.path / "studies/s/confirm/confirmation.json").read_text())
    assert (kept["trial"], now["trial"]) == (0, 2)


@pytest.mark.slow
def test_a_confirmation_that_fails_is_told_and_ends_with_1(workplace: Workplace) -> None:
    workplace.plan(**{"t-1": {"raise_at": 2}})
    printed = workplace.run("study.trials=1", "confirm.seeds=2", rc=1)
    assert "confirmation: none of the seeds ended well" in printed and "the confirmation is not complete" in printed


@pytest.mark.slow
@pytest.mark.fresh_start
def test_a_confirmation_that_was_interrupted_is_gone_on_with(workplace: Workplace) -> None:
    workplace.plan(**{"t0": {}, "t-1": {"steps": 50, "pause": 0.1}})
    driver = workplace.start("study.trials=1", "confirm.seeds=2")
    workplace.wait_for(lambda: workplace.started(-1), 30, "confirmation")
    driver.kill()
    driver.wait()

    workplace.run("study.trials=1", "confirm.seeds=2")

    assert workplace.states() == ["COMPLETE"]  # no trial was added: the run before was not over
    assert len(workplace.started(-1)) == 4  # two seeds of two ranks: none was started twice


@pytest.mark.slow
def test_a_terminal_gets_a_live_table_and_the_events(workplace: Workplace) -> None:
    workplace.plan(all={"steps": 10, "pause": 0.2})
    ours, theirs = pty.openpty()
    driver = subprocess.Popen(
        workplace.command("run", "study.toml", "study.trials=1"),
        cwd=workplace.path, env={**workplace.environment, "TERM": "xterm", "COLUMNS": "120"}, stdout=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # the other side is closed: it has ended
        pass
    os.close(ours)
    assert driver.wait(timeout=300) == 0
    text = shown.decode()
    assert "parameters" in text and "running" in text and "0 more trials to come" in text
    assert "trial 0 done with value" in text


def test_a_terminal_that_goes_away_stops_the_study_in_good_order(workplace: Workplace) -> None:
    workplace.plan(all={"steps": 600, "pause": 0.1})
    ours, theirs = pty.openpty()
    driver = subprocess.Popen(
        workplace.command("run", "study.toml"),
        cwd=workplace.path, env=workplace.environment, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    workplace.wait_for(lambda: workplace.started(0), 40, "trial")
    os.close(ours)
    driver.send_signal(signal.SIGHUP)

    assert driver.wait(timeout=300) == 75
    assert workplace.states() == ["FAIL", "WAITING"]
