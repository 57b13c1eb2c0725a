"""World models of several kinds, trained for equally many steps on a run's store, measured and timed in one process.

    PYTHONPATH=.:kernels:engines python -m bench.suites world_models RUN_DIR [--steps 450] [--rollouts 256] [overrides]

RUN_DIR has recordings encoded and phases 1 and 2 trained; its reward head reads the states that each kind imagines. A
row says what a kind took to train (CPU seconds), its error of one step and over an open loop (ONE sample, beside
copying the last latent), how much worse shuffled actions are, how reward on its states goes with that on the real ones,
and how many imagined steps a core-second it makes, with the share of the matrix-product floor. Rollouts of all kinds
are timed in turns. Run it with OMP_NUM_THREADS=1, or a second is not a core-second. Not a gate.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.suites.command import PAPERS, options
from bench.timing import machine, matrix_rate
from fastdreamer.config import Config, load_config
from fastdreamer.device import Backend, choose_device
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.evaluation.imagined_rewards import reward_correlation
from fastdreamer.evaluation.open_loop import choose_crops, evaluate_world_model, imagining
from fastdreamer.heads.agent import Agent
from fastdreamer.imagination.program import build_program
from fastdreamer.latents.batch import Batch
from fastdreamer.latents.store import LatentStore
from fastdreamer.run.directory import RunDirectory
from fastdreamer.training.build import build_phase
from fastdreamer.training.models import agent_from
from fastdreamer.training.phase_data import training_loader
from fastdreamer.training.step import Update

KINDS = {
    "paper, K = 4": PAPERS[:5],
    "paper's network, K = 1, no bootstrap": (*PAPERS[:3], "forcing.sample_steps=1", "forcing.boot_fraction=0"),
    "linear start, K = 4, bootstrap": ("dynamics.linear_start=true", *PAPERS[1:5]),
    "linear start, K = 1": (
        "dynamics.spatial_tokens=16", "forcing.levels=grid", "forcing.boot_fraction=0", "forcing.sample_steps=1",
    ),
    "the same, levels as sampled": ("dynamics.spatial_tokens=16",),
    "the same, context at 0.9": ("dynamics.spatial_tokens=16", "forcing.context_signal=0.9"),
    "the same, 4 tokens": (),
}  # fmt: skip
"""What each is, beside the run's own configuration, which is taken to be the preset's (`crafter`)."""
ROUNDS = 5


@dataclass(frozen=True)
class Kind:
    """A kind of world model that is trained."""

    config: Config
    world: WorldModel
    seconds: float


def trained(config: Config, store: LatentStore, backend: Backend) -> Kind:
    """Phase 1 of a kind; its averaged weights and CPU seconds."""
    torch.manual_seed(config.seed)
    began_s = time.process_time()
    phase = build_phase(config, 1, store, None, backend)
    update = Update(phase, config.phase1, backend)
    phase.model.train()
    for step in range(config.phase1.steps):
        update(step)
    phase.model.load_state_dict(update.ema.state)
    world = phase.model.eval().requires_grad_(False).get_submodule("world")
    assert isinstance(world, WorldModel)
    return Kind(config, world, time.process_time() - began_s)


def measured(kind: Kind, agent: Agent, store: LatentStore) -> dict[str, Any]:
    """What `eval` says of a world model, with the run's own reward head."""
    config, settings, world = kind.config, kind.config.evaluation, kind.world
    crops, batch = choose_crops(
        store.split("held_out"), store.clock, config.dynamics.window, settings.context, settings.crops, settings.seed
    )
    truth = world.normalise(batch.latents, batch.positions)
    imagine = imagining(world, settings.context)
    result, _ = evaluate_world_model(imagine, batch, truth, store.space.noop, replace(settings, samples=2))
    imagined = imagine(batch, torch.Generator().manual_seed(settings.seed), None)
    rewards = reward_correlation(world, agent, batch, imagined, replace(settings, bootstrap=200))
    return result | {"reward": rewards["imagined_against_real"]}


OPTIONS = options(
    "overrides", run_dir={"type": Path}, steps={"type": int, "default": 450}, rollouts={"type": int, "default": 256}
)


def run(chosen: argparse.Namespace) -> None:
    """Train, measure, time and print."""
    trained_run, base = RunDirectory(chosen.run_dir), str(chosen.run_dir / "config.yaml")
    shared = [*chosen.overrides, "device=cpu", f"phase1.steps={chosen.steps}", f"phase3.batch_size={chosen.rollouts}"]
    own = load_config(base, shared)
    store, backend = LatentStore.open(trained_run.store(own)), choose_device(own)
    agent = agent_from(trained_run.load(2, load_config(base)), own, backend.device).eval()
    starts = training_loader(own, 3, store, backend.device).draw()
    rate = matrix_rate(512, torch.bfloat16 if backend.precision == "bf16" else torch.float32, "cpu")
    print(f"{machine()['processor']}, {backend}, commit {machine()['commit']}; {rate / 1e9:.0f} GFLOP/s in products")
    kinds = {}
    for name, changes in KINDS.items():
        kinds[name] = trained(load_config(base, [*shared, *changes]), store, backend)
        found = measured(kinds[name], agent, store)
        far = [found["one_sample_over_copy"][h - 1]["mean"] for h in (1, 4, 12)]
        step = found["one_step"]
        line = f"{name:<38} {kinds[name].seconds:4.0f} CPU s; one step {step['error']:.3f} of "
        shuffled = step["shuffled_over_real"]["mean"]
        line += f"{step['copy']:.3f}, shuffled {shuffled:.2f}; over copying at 1, 4, 12 "
        print(f"{line}{', '.join(f'{x:.2f}' for x in far)}; reward {found['reward']['mean']:.2f}", flush=True)
    time_rollouts(kinds, agent, starts, backend, rate)


def time_rollouts(kinds: dict[str, Kind], agent: Agent, starts: Batch, backend: Backend, rate: float) -> None:
    """Imagined steps a core-second of every kind, in turns: medians, and the share of the products' floor."""
    programs, flops, seconds = {}, {}, {name: list[float]() for name in kinds}
    count, horizon = len(starts.latents), next(iter(kinds.values())).config.imagination.horizon
    for name, kind in kinds.items():
        generator = torch.Generator().manual_seed(0)
        programs[name] = build_program(kind.config, kind.world, agent, count, backend, generator, proves=False)
        with FlopCounterMode(display=False) as counter:
            programs[name](starts)
        flops[name] = counter.get_total_flops()
    for _ in range(ROUNDS):
        for name, program in programs.items():
            began_s = time.process_time()
            program(starts)
            seconds[name].append(time.process_time() - began_s)
    first = statistics.median(seconds[next(iter(kinds))])
    for name, taken in seconds.items():
        median = statistics.median(taken)
        print(
            f"{name:<38} {count * horizon / median:7.0f} imagined steps a core-second ({first / median:.1f} times the "
            f"first), {flops[name] / rate / median:.0%} of the matrix-product floor"
        )
