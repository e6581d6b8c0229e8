"""The rows of the table: who runs what, and what is claimed of it. A new row is a `Row` in ROWS.

Sizes are those of one rank; this project's settings are global, so that they are multiplied by the ranks there.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace

from tests.benchmarks.contest import TUNED, YIELD, Contestant, Joined, Row
from tests.benchmarks.figures import Claim
from tests.benchmarks.studies import study

MPI = ("horovodrun", "-np", "2", "--mpi")
GLOO = ("horovodrun", "-np", "2", "--gloo")
SPEED = "env steps/s"
LONG = "run.steps=1_000_000_000"
"""A run that is timed does not end meanwhile, and is long enough for its gradient to be compiled."""


@dataclass(frozen=True)
class PPO:
    """One experiment on CartPole-v1, in the terms of every contestant."""

    envs: int
    steps: int
    minibatch: int
    epochs: int = 4

    def ours(self, name: str, *more: str, ranks: int = 1, path: str = "auto") -> Contestant:
        settings = [
            f"env.count={self.envs * ranks}",
            f"algorithm.rollout_steps={self.steps}",
            f"algorithm.minibatch_size={self.minibatch * ranks}",
            f"algorithm.epochs={self.epochs}",
            f"sync.path={path}",
            LONG,
        ]
        launcher = MPI if ranks > 1 else ()
        return Contestant(name, "tests.benchmarks.ours", ("ppo-cartpole", *settings, *more), launcher)

    def peer(
        self, name: str, script: str, *more: str, launcher: tuple[str, ...] = (), env: dict[str, str] | None = None
    ) -> Contestant:
        sizes = f"--envs {self.envs} --steps {self.steps} --minibatch {self.minibatch} --epochs {self.epochs}"
        return Contestant(name, f"tests.benchmarks.{script}", (*shlex.split(sizes), *more), launcher, env or {})


SMALL = PPO(envs=4, steps=128, minibatch=128)
WIDE = PPO(envs=64, steps=64, minibatch=1024)


def small_reduce() -> Row:
    ours, bare, yielding = "ours", "mpi4py alone, Allreduce in place", "mpi4py alone, idle yield"
    horovod, tuned = "hvd.allreduce_, idle yield", "hvd.allreduce_, idle yield, cycle time 0.1 ms"

    def by(name: str, way: str, env: dict[str, str]) -> Contestant:
        return Contestant(name, "tests.benchmarks.reduce", (way,), MPI, env)

    return Row(
        "1",
        "All-reduce of 20 KB by two ranks",
        "microseconds",
        "us",
        (
            by(ours, "harness", {}),
            by(bare, "mpi4py", {}),
            by(yielding, "mpi4py", YIELD),
            by(horovod, "horovod", YIELD),
            by(tuned, "horovod", TUNED),
        ),
        (
            Claim(ours, bare, at_most=1.5),
            Claim(ours, yielding),
            Claim(horovod, ours, at_least=40),
            Claim(tuned, ours),
        ),
        rounds=3,
        note="The median of single calls; ours are the collectives of a run of this project under `horovodrun --mpi`, "
        "which sets the idle yield itself.",
    )


def large_reduce() -> Row:
    ours, mpi, gloo, torch = "ours", "Horovod on MPI", "Horovod on Gloo", "torch.distributed Gloo"

    def by(name: str, way: str, launcher: tuple[str, ...], env: dict[str, str]) -> Contestant:
        return Contestant(name, "tests.benchmarks.reduce", (way, "--kilobytes", "97656"), launcher, env)

    return Row(
        "5",
        "All-reduce of 25 million parameters (100 MB) by two ranks of one host",
        "microseconds",
        "us",
        (
            by(ours, "harness", MPI, {}),
            by(mpi, "horovod", MPI, TUNED),
            by(gloo, "horovod", GLOO, TUNED),
            by(torch, "torch", MPI, YIELD),
        ),
        (Claim(ours, mpi, at_most=1.0), Claim(ours, gloo, at_most=1.0), Claim(ours, torch, at_most=1.0)),
        rounds=3,
        note="On one host nothing is reduced beside the backward pass: the ranks' cores are busy with it.",
    )


def one_rank() -> Row:
    ours, sb3, plain = "ours", "Stable-Baselines3", "plain eager PPO"
    return Row(
        "2a",
        "PPO on CartPole-v1, MLP 64x64, 1 rank: 4 environments x 128 steps, 4 epochs x 4 minibatches",
        "env_steps_per_second",
        SPEED,
        (SMALL.ours(ours), SMALL.peer(sb3, "sb3_ppo"), SMALL.peer(plain, "plain_ppo")),
        (Claim(ours, sb3, at_least=3), Claim(ours, plain, at_least=3)),
    )


def one_rank_of_many_environments() -> Row:
    ours, sb3, plain, floor = "ours", "Stable-Baselines3", "plain eager PPO", "the floor"
    return Row(
        "2b",
        "PPO on CartPole-v1, MLP 64x64, 1 rank: 64 environments x 64 steps, 4 epochs of minibatches of 1024",
        "env_steps_per_second",
        SPEED,
        (
            WIDE.ours(ours),
            WIDE.peer(sb3, "sb3_ppo"),
            WIDE.peer(plain, "plain_ppo"),
            WIDE.ours(floor, "--floor"),
        ),
        (Claim(ours, sb3, at_least=3.5), Claim(ours, plain), Claim(floor, ours, at_most=1.25)),
        rounds=3,
        note="The floor, as `harness bench throughput` has it: one matrix product forward and two backward for each "
        "layer of both networks at the minibatch's shape, for all updates, and a bare loop of the vector's `step` with "
        "random actions. No acting, bias, activation, loss, optimizer, advantage or storing is in it.",
    )


def two_ranks() -> Row:
    one, two, horovod = "ours, 1 rank", "ours, 2 ranks", "ours, 2 ranks, sync.path = horovod"
    wrapped = "plain PPO in hvd.DistributedOptimizer, 2 ranks"
    mpi, yielding, tuned = f"{wrapped}, MPI", f"{wrapped}, MPI, idle yield", f"{wrapped}, MPI, idle yield, cycle 0.1 ms"
    gloo = f"{wrapped}, Gloo"

    def peer(name: str, launcher: tuple[str, ...], env: dict[str, str]) -> Contestant:
        return SMALL.peer(name, "plain_ppo", "--horovod", launcher=launcher, env=env)

    return Row(
        "3",
        "PPO on CartPole-v1, MLP 64x64, batch per rank held: 4 environments x 128 steps and minibatches of 128 a rank",
        "env_steps_per_second",
        SPEED,
        (
            SMALL.ours(one),
            SMALL.ours(two, ranks=2),
            SMALL.ours(horovod, ranks=2, path="horovod"),
            peer(mpi, MPI, {}),
            peer(yielding, MPI, YIELD),
            peer(tuned, MPI, TUNED),
            peer(gloo, GLOO, {}),
        ),
        (
            Claim(two, one, at_least=1.85),
            Claim(two, mpi, at_least=5),
            Claim(two, yielding),
            Claim(two, tuned),
            Claim(two, gloo),
            Claim(two, horovod),
        ),
        rounds=3,
        note="Steps of all ranks together.",
    )


def user(key: str, title: str, preset: str, rounds: int, cold: float, warm: float, *more: str) -> Row:
    """Whole commands, from Enter to the last line."""
    peer, one, two = "Stable-Baselines3's script", "1 rank", "2 ranks"

    def command(name: str, *words: str, options: tuple[str, ...] = ()) -> Contestant:
        return Contestant(name, "tests.benchmarks.whole_command", (*options, "--command", shlex.join(words)))

    def ours(name: str, *words: str, options: tuple[str, ...] = ()) -> Contestant:
        train = ("python", "-m", "harness", "train", preset, "seed={seed}", *more)
        return command(name, *train, *words, options=options)

    script = command(peer, "python", "-m", "tests.benchmarks.sb3_zoo", preset, "--seed", "{seed}")
    busy = ("--busy",)
    return Row(
        key,
        title,
        "seconds",
        "s",
        (
            script,
            ours(f"{one}, cold", options=("--cold",)),
            ours(f"{one}, warm"),
            ours(f"{two}, cold", "--ranks", "2", options=("--cold",)),
            ours(f"{two}, warm", "--ranks", "2"),
            ours(f"{one}, warm, beside a busy loop", options=busy),
            ours(f"{two}, warm, beside a busy loop", "--ranks", "2", options=busy),
        ),
        (
            Claim(peer, f"{one}, cold", at_least=cold),
            Claim(peer, f"{one}, warm", at_least=warm),
            Claim(f"{two}, warm", f"{one}, warm", at_most=1.0),
            Claim(f"{two}, cold", f"{one}, cold"),
            Claim(f"{two}, warm, beside a busy loop", f"{one}, warm, beside a busy loop", at_most=1.5),
        ),
        rounds,
        rehearsal=(ours(one, "compile.mode=kept"), ours(two, "compile.mode=kept", "--ranks", "2")),
        note="Wall clock of whole commands, the imports, evaluations and 100 final episodes in it; one thread a rank. "
        "Cold: no code in any cache. Warm: as a second run finds it, after one with compile.mode = kept.",
    )


def time_to_return(key: str, title: str, preset: str, wanted: str, settings: tuple[str, ...], rounds: int) -> Row:
    one, two = "ours, 1 rank", "ours, 2 ranks"
    arguments = (preset, *settings, "evaluation.episodes=20", "--until", wanted)
    throughput = (preset, *settings, LONG, "--seconds", "0.1")
    return Row(
        key,
        f"{title}, global batch held: time to a mean return of {wanted}",
        "seconds",
        "s",
        (
            Contestant(one, "tests.benchmarks.ours", arguments),
            Contestant(two, "tests.benchmarks.ours", arguments, MPI),
        ),
        (Claim(two, one, at_most=1.0),),
        rounds,
        rehearsal=(
            Contestant(one, "tests.benchmarks.ours", throughput),
            Contestant(two, "tests.benchmarks.ours", throughput, MPI),
        ),
        note="The mean of an evaluation of 20 episodes; the evaluations before it and loading compiled code are in the "
        "time, starting processes is not. Where one rank needs a few seconds only, most of them are loading compiled "
        "code and evaluating, which two ranks do not shorten; a larger network has more to share out. Each round has "
        "a seed of its own, the same for both; their steps differ all the same, since sums in another order make "
        "another run of the same experiment.",
    )


def from_replay(
    key: str,
    title: str,
    preset: str,
    *settings: str,
    of: str = "the settings of {}",
    two_cores: Contestant | None = None,
) -> Row:
    """`two_cores`: this project on two, with the arguments it has beside those of all."""
    ours, sb3, floor = "ours", "Stable-Baselines3", "the products alone"
    arguments = (preset, "algorithm.learning_starts=0", *settings, LONG)
    contestants = [
        Contestant(ours, "tests.benchmarks.ours", arguments),
        Contestant(sb3, "tests.benchmarks.sb3_replay", arguments),
        Contestant(floor, "tests.benchmarks.replay_floor", arguments),
    ]
    claims = [Claim(ours, sb3, at_least=3), Claim(floor, sb3), Claim(floor, ours)]
    if two_cores is not None:
        sb3_on_two = Contestant(f"{sb3}, 2 threads", "tests.benchmarks.sb3_replay", (*arguments, "--threads", "2"))
        contestants += [replace(two_cores, arguments=(*arguments, *two_cores.arguments)), sb3_on_two]
        claims.append(Claim(two_cores.name, sb3_on_two.name))
    return Row(
        key,
        f"{title}, {of.format(preset)}",
        "env_steps_per_second",
        SPEED,
        tuple(contestants),
        tuple(claims),
        note="One core each, unless the name says otherwise. Acting, storing and learning from the first minibatch on; "
        "all are given the same settings. The products alone: the matrix products that an update cannot do without, by "
        "the quickest kernel of this CPU, one after the other in float32; nothing else is in it, so that its ratio to "
        "Stable-Baselines3 is what no program that multiplies these matrices on one core can exceed.",
    )


def pong() -> Row:
    one, two = "ours, 1 rank", "ours, 2 ranks"
    arguments = ("ppo-pong", "env.backend=envpool", "compile.mode=off")
    return Row(
        "9",
        "PPO on Pong by EnvPool (ppo-pong), Nature CNN: 8 environments x 128 steps, 4 epochs x 4 minibatches",
        "env_steps_per_second",
        SPEED,
        (
            Contestant(one, "tests.benchmarks.ours", (*arguments, "run.threads=1", "--seconds", "20")),
            Contestant(two, "tests.benchmarks.ours", (*arguments, "--seconds", "20"), MPI),
        ),
        (Claim(two, one),),
        rounds=3,
        note="The batch of all ranks is held. Steps are agent steps of 4 frames.",
    )


def rows() -> dict[str, Row | Joined]:
    """All rows by key, in the order of the table."""
    acrobot = ("evaluation.count=50",)
    large = ("evaluation.count=25", "network.hidden=[512, 512]", "run.threads=1")
    plain = "algorithm.double=false", "algorithm.n_steps=1"  # as Stable-Baselines3 has it
    sb3_dqn = (
        *("network.hidden=[64, 64]", "algorithm.batch_size=32", "algorithm.train_freq=4", "algorithm.gradient_steps=1"),
        *("optimizer.lr=1e-4", "optimizer.schedule=constant", "algorithm.buffer_size=1_000_000"),
        *("algorithm.target_update_interval=10_000", "algorithm.exploration_initial_eps=0.05"),
        "algorithm.exploration_final_eps=0.05",
    )
    every: list[Row | Joined] = [
        small_reduce(),
        one_rank(),
        one_rank_of_many_environments(),
        two_ranks(),
        time_to_return("4a", "PPO on Acrobot-v1 (ppo-acrobot)", "ppo-acrobot", "-82", acrobot, rounds=7),
        time_to_return("4b", "PPO on CartPole-v1 (ppo-cartpole), MLP 512x512", "ppo-cartpole", "475", large, 7),
        large_reduce(),
        Joined("6", "tests.benchmarks.slow_cable"),
        Joined("7", "tests.benchmarks.environments"),
        from_replay(
            *("8a", "DQN on CartPole-v1", "dqn-cartpole", "algorithm.exploration_initial_eps=0.04", *plain),
            two_cores=Contestant("ours, 2 threads", "tests.benchmarks.ours", ("run.threads=2",)),
        ),
        from_replay(
            *("8b", "SAC on Pendulum-v1", "sac-pendulum"),
            two_cores=Contestant("ours, 2 ranks", "tests.benchmarks.ours", (), MPI),
        ),
        from_replay("8c", "DQN on CartPole-v1", "dqn-cartpole", *plain, *sb3_dqn, of="the defaults of its DQN"),
        from_replay("8d", "SAC on MountainCarContinuous-v0", "sac-mountaincarcontinuous"),
        pong(),
        user("user-a", "`harness train ppo-cartpole`, 100,000 steps", "ppo-cartpole", 5, 3.0, 4.0),
        user("user-b", "`harness train ppo-acrobot`, 1,000,000 steps", "ppo-acrobot", 1, 1.0, 1.0),
        user("user-c", "`harness train dqn-cartpole`, 50,000 steps", "dqn-cartpole", 3, 1.0, 1.0),
        user("user-d", "`harness train sac-pendulum`, 20,000 steps", "sac-pendulum", 1, 1.0, 1.0),
        study(),
        Joined("replay", "tests.benchmarks.replay_memory"),
        Joined("saving", "tests.benchmarks.saving"),
        Joined("serve", "tests.benchmarks.serving"),
        Joined("compress", "tests.benchmarks.compressing"),
        Joined("warm", "tests.benchmarks.warm_ranks"),
    ]
    return {row.key: row for row in every}
