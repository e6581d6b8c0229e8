"""Whole studies side by side: `make bench ROWS=study`."""

from __future__ import annotations

import shlex
from pathlib import Path

from tests.benchmarks.contest import Contestant, Row
from tests.benchmarks.figures import Claim


def study() -> Row:
    """The same study by this project's search and by rl-baselines3-zoo's."""
    peer, cold, warm = "rl-baselines3-zoo's optimizer, 2 jobs", "ours, cold", "ours, warm"

    def command(name: str, line: str, *options: str) -> Contestant:
        arguments = (*options, "--command", line)
        return Contestant(name, "tests.benchmarks.whole_command", arguments, limit=3600.0)

    search = f"python -m search run {shlex.quote(str(Path(__file__).with_name('zoo_study.toml')))} study.seed={{seed}}"
    zoo = (
        "python -m rl_zoo3.train --algo ppo --env CartPole-v1 -n 20000 -optimize --n-trials 16 --n-jobs 2 --sampler "
        "tpe --pruner median --n-startup-trials 10 --n-evaluations 1 --eval-episodes 5 --seed {seed} -f logs"
    )
    return Row(
        "study",
        "16 trials of PPO on CartPole-v1, 20,000 steps each, by TPE and a median pruner, 1 rank a trial on 2 slots",
        "seconds",
        "s",
        (command(peer, zoo), command(cold, search, "--cold"), command(warm, search)),
        (Claim(peer, warm, at_least=8), Claim(peer, cold)),
        rounds=3,
        note="Wall clock of the whole command, one thread a trial. Ours searches the space of rl-baselines3-zoo but "
        "for rollouts longer than a run (`tests/benchmarks/zoo_study.toml`); the draws of the two differ, and with "
        "them the number of their gradient steps. Theirs are two threads of one process.",
    )
