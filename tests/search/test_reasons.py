"""What a study is told of scripts that end in every way a script may: one study, a trial for each."""

from __future__ import annotations

import json
from typing import Any

from harness.launching import Outcome
from search.trial_dir import Report
from search.trials.outcome import End, Evidence, classify

SCRIPT = """
import argparse, os, sys, time
from harness.reporting import report, should_stop
p = argparse.ArgumentParser()
p.add_argument("--how"); p.add_argument("--seed", type=int)
how = p.parse_args().how
rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
if how == "argparse":
    p.parse_args(["--seed", "many"])
report(1, 1.0)
report(2, 2.5)
if how == "simulator":           # ends the process itself, with 0, on all ranks
    print("training finished", flush=True)
    os._exit(0)
if how == "simulator that asked":
    should_stop()
    time.sleep(0.5 * rank)
    os._exit(0)
if how == "words of rank 1":     # which rank 0, in the loop below, would wait for at MPI's end
    if rank == 1:
        should_stop()
        sys.exit("no data set at /data/mnist")
    while not should_stop():
        time.sleep(0.05)
if how == "bar":
    for i in range(3000):
        sys.stderr.write(f"\\repoch {i}% |{'#' * 60}| loss=0.1")
    raise ValueError("exploded \\x1b[31min the bar" + "!" * 5000)
if how == "latin":
    sys.stdout.buffer.write("Pr\\u00fcfstand 1\\n".encode("latin-1"))
    sys.stdout.flush()
    sys.exit("Pr\\u00fcfstand\\x00 fehlt")
"""
HOW = ["simulator", "simulator that asked", "argparse", "words of rank 1", "bar", "latin"]


def test_each_way_to_end_is_told_with_its_reason(workplace: Any) -> None:
    (workplace.path / "ends.py").write_text(SCRIPT)
    workplace.study_file(
        study={"sampler": "grid", "trials": len(HOW)},
        trial={"command": ["python", "ends.py", "--how", "{x}", "--seed", "{seed}"]},
        space={"x": {"choices": HOW}},
    )

    workplace.run(*workplace.slots(6))

    trials = {trial.user_attrs["settings"]["x"]: trial for trial in workplace.trials()}
    ends = {how: (trial.state.name, trial.value, trial.user_attrs.get("reason", "")) for how, trial in trials.items()}
    host = trials["argparse"].user_attrs["hosts"][0]
    assert ends["simulator"] == ("COMPLETE", 2.5, "")
    assert ends["simulator that asked"] == ("COMPLETE", 2.5, "")
    for how, reason in {
        "argparse": "with exit code 2: ends.py: error: argument --seed: invalid int value: 'many'",
        "words of rank 1": "with exit code 1: no data set at /data/mnist",
        "bar": "with exit code 1: ValueError: exploded in the bar!!!",
        "latin": "with exit code 1: Prüfstand fehlt",
    }.items():
        assert ends[how][0] == "FAIL" and reason in ends[how][2] and f" on {host} ended " in ends[how][2], ends[how]
    assert ends["words of rank 1"][2].startswith("rank 1 on ")
    # MySQL takes 64 KB for an attribute
    assert all(len(json.dumps(value)) < 16_000 for trial in trials.values() for value in trial.user_attrs.values())


def test_reports_of_a_script_that_left_no_result_count_where_all_ranks_ended_with_0() -> None:
    last = Report(0, 3, 4.5)
    quiet = Evidence(None, speaks_for_all=False, outcome=Outcome(0), reported=last)
    assert classify(quiet) == End("done", 4.5)
    assert classify(Evidence(None, speaks_for_all=False, outcome=Outcome(0))).status == "failed"
    assert classify(Evidence(None, speaks_for_all=False, outcome=Outcome(1, 0), reported=last)).status == "failed"
    assert classify(Evidence(None, speaks_for_all=False, outcome=Outcome(-1), reported=last)).status == "failed"
    assert (
        classify(Evidence(None, outcome=Outcome(0), reported=last)).status == "failed"
    )  # harness train leaves a result
    asked = Evidence(None, speaks_for_all=False, outcome=Outcome(0), asked="pruned", reported=last)
    assert classify(asked).status == "pruned"
    not_finite = Evidence(None, speaks_for_all=False, outcome=Outcome(0), reported=Report(0, 3, None))
    assert classify(not_finite).status == "diverged"
