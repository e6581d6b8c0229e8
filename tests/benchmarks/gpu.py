"""What graphs are worth on a GPU: `python -m tests.benchmarks.gpu --json FILE`.

PPO with the convolutional network of Mnih et al. 2015 on observations of the shape of Atari games, which cost next to
nothing to make: the learner is what is measured. Every arithmetic in every way, taken in turns; gradient steps a second
in the updates alone, environment steps a second in whole iterations. Without a GPU it says so and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from harness.acting.actors import ModuleActor
from harness.algorithms import Context
from harness.algorithms.ppo import PPO
from harness.config import load_run_config
from harness.distributed.transports.base import Alone
from harness.envs import make_environments
from harness.files import write_json
from harness.lifecycle.result import git_commit
from harness.reporting import PhaseTimer

WAYS = {
    "host": "eager; the host reads the statistics of each minibatch and decides",
    "eager": "eager; decided on the device, kernel by kernel",
    "captured": "eager kernels in CUDA graphs",
    "compiled": "inductor's kernels in CUDA graphs",
}
SETTINGS = {
    "host": ("compile.mode=off", "compile.capture=false"),
    "eager": ("compile.mode=off", "compile.capture=false"),
    "captured": ("compile.mode=off",),
    "compiled": ("compile.mode=on",),
}
WANTED = 3.0
"""How many times the gradient steps of eager fp32 the captured bf16 should make."""
CONFIG = """
run.steps = 1_000_000_000
env = {{ id = "tests.atari_shaped:Screens-v0", count = {envs} }}
algorithm = {{ name = "ppo", rollout_steps = {steps}, minibatch_size = {minibatch}, epochs = 4 }}
network.hidden = [512]
"""


@dataclass(frozen=True)
class Row:
    card: str
    precision: str
    way: str
    gradient_steps_per_second: float
    env_steps_per_second: float
    spread: float
    """Of the gradient steps: largest less smallest repeat, over the median."""
    seconds_to_set_up: float
    notices: list[str]
    sizes: dict[str, int]
    torch: str
    commit: str | None
    date: str


def make(way: str, precision: str, device: torch.device, sizes: dict[str, int]) -> PPO:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "gpu.toml")
        path.write_text(CONFIG.format(**sizes))
        config = load_run_config(str(path), [f"precision.kind={precision}", *SETTINGS[way]])
    assert config.env is not None
    environments = make_environments(config.env, 0, 1)
    ppo = PPO(Context(config, Alone(), device, PhaseTimer(), environments, lambda act, n, final: np.zeros(n)))
    if way == "host":
        ppo.loop = ppo.learner.make_loop(ppo.kl_stop, on_device=False)
        ppo.collector.actor = ModuleActor(ppo.module, device)
    return ppo


def per_second(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """How often `work` is done a second, over about `seconds`."""

    def timed(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    count = max(1, round(seconds / timed(1)))
    return count / timed(count)


class Contestant:
    """One way in one arithmetic; `measure` it several times, in turn with the others."""

    def __init__(self, way: str, precision: str, device: torch.device, sizes: dict[str, int]) -> None:
        self.way, self.precision, self.device, self.sizes = way, precision, device, sizes
        began = time.perf_counter()
        self.ppo = make(way, precision, device, sizes)
        self.seconds = time.perf_counter() - began
        for iteration in range(3):
            self.ppo.iterate(iteration)
        self.gradient_steps: list[float] = []
        self.env_steps: list[float] = []

    def measure(self, seconds: float) -> None:
        ppo = self.ppo
        updates = per_second(lambda: ppo.update(3), self.device, seconds / 2)
        iterations = per_second(lambda: ppo.iterate(3), self.device, seconds / 2)
        self.gradient_steps.append(updates * ppo.settings.epochs * ppo.minibatches)
        self.env_steps.append(iterations * ppo.samples)

    def row(self) -> Row:
        on_gpu = self.device.type == "cuda"
        median = statistics.median(self.gradient_steps)
        return Row(
            card=torch.cuda.get_device_name(self.device) if on_gpu else "none: CPU",
            precision=self.precision,
            way=self.way,
            gradient_steps_per_second=median,
            env_steps_per_second=statistics.median(self.env_steps),
            spread=(max(self.gradient_steps) - min(self.gradient_steps)) / median,
            seconds_to_set_up=self.seconds,
            notices=self.ppo.notices(),
            sizes=self.sizes,
            torch=torch.__version__,
            commit=git_commit(),
            date=time.strftime("%Y-%m-%d %H:%M"),
        )


def verdict(rows: list[Row]) -> str:
    """The captured bf16 against the faster of the two eager fp32."""
    of = {(row.precision, row.way): row.gradient_steps_per_second for row in rows}
    eager = max(of.get(("fp32", "host"), 0.0), of.get(("fp32", "eager"), 0.0))
    captured = of.get(("bf16", "captured"), 0.0)
    if not eager or not captured:
        return "captured bf16 against eager fp32: not both were measured"
    met = "met" if captured >= WANTED * eager else "NOT MET"
    return (
        f"captured bf16 makes {captured / eager:.2f} times the gradient steps of eager fp32; wanted {WANTED:g}: {met}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--envs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=128, help="of each environment between updates")
    parser.add_argument("--minibatch", type=int, default=256)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16", "fp16"])
    parser.add_argument("--ways", nargs="+", default=[*WAYS], choices=[*WAYS])
    parser.add_argument("--seconds", type=float, default=2.0, help="of a repeat of one way in one arithmetic")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where the rows are written")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"no GPU here (torch {torch.__version__} sees none): nothing was measured")
        return
    torch.set_num_threads(1)
    device = torch.device("cuda", 0)
    sizes = {"envs": args.envs, "steps": args.steps, "minibatch": args.minibatch}
    contestants = [Contestant(way, kind, device, sizes) for kind in args.precision for way in args.ways]
    for _ in range(args.repeats):
        for contestant in contestants:
            contestant.measure(args.seconds)
    rows = [contestant.row() for contestant in contestants]
    for row in rows:
        print(json.dumps(asdict(row)))
    for row in rows:
        speeds = (
            f"{row.gradient_steps_per_second:10,.0f} gradient steps/s {row.env_steps_per_second:12,.0f} env steps/s"
        )
        print(f"{row.precision} {row.way:9} {speeds}   spread {row.spread:.0%}   {WAYS[row.way]}")
    print(f"{rows[0].card}: {verdict(rows)}")
    if args.json is not None:
        write_json(args.json, {"rows": [asdict(row) for row in rows], "verdict": verdict(rows)})


if __name__ == "__main__":
    main()
