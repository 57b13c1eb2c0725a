"""What is diagnosed: a trained phase of a run, loaded afresh, with one step run on a sample batch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fastdreamer.config import Config
from fastdreamer.device import Backend
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.latents.batch import Batch
from fastdreamer.latents.store import LatentStore
from fastdreamer.run.checkpoint import Checkpoint, strip_compiled_prefix
from fastdreamer.run.directory import RunDirectory
from fastdreamer.training.build import build_phase
from fastdreamer.training.optim import build_optimizers
from fastdreamer.training.phase import Phase

STEPS = 3  # that are timed, after one that is not
BRIEF_S = 0.002  # a shorter wait a step is nothing that a loader could do better


@dataclass
class LoadedPhase:
    """A phase with its averaged weights, on a sample batch.

    Attributes:
        missing, unexpected: parameters that the checkpoint lacks, and has too many.
        batch: a sample of what the phase trains on, on the device.
        loss, norm: loss and gradient norm of a step; its gradients are still there, on the phase's modules.
        waiting: share of the steps' time that went by waiting for batches.
        figures: what the phase logs.
    """

    config: Config
    run: RunDirectory
    number: int
    backend: Backend
    store: LatentStore
    checkpoint: Checkpoint
    phase: Phase[Any]
    missing: list[str]
    unexpected: list[str]
    batch: Batch
    loss: float = 0.0
    norm: float = 0.0
    waiting: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def world(self) -> WorldModel:
        """The world model, whichever phase this is."""
        world = getattr(self.phase, "world")  # noqa: B009  (a phase 0 has none, and is not diagnosed)
        assert isinstance(world, WorldModel)
        return world

    @property
    def trained(self) -> dict[str, Tensor]:
        """Parameters of the phase's model that the optimisers hold, by name."""
        train = self.config.phase(self.number)
        named = dict(self.phase.model.named_parameters())
        held = {id(p) for o in build_optimizers(named.items(), train) for g in o.param_groups for p in g["params"]}
        return {name: p for name, p in named.items() if id(p) in held}


@contextmanager
def opened(config: Config, run: RunDirectory, number: int, backend: Backend) -> Iterator[LoadedPhase]:
    """Open the run's phase `number`.

    Raises:
        UserError: if it is not trained, or a part of the run is damaged.
    """
    checkpoint = run.load(number, config)
    store = LatentStore.open(run.store(config), memory_limit_gb=config.data.memory_limit_gb)
    torch.manual_seed(config.seed)
    phase = build_phase(config, number, store, checkpoint, backend)
    saved = strip_compiled_prefix(checkpoint.averages)
    own = phase.model.state_dict()
    fitting = {name: value for name, value in saved.items() if name in own and value.shape == own[name].shape}
    phase.model.load_state_dict(fitting, strict=False)
    phase.model.eval()
    missing, unexpected = sorted(own.keys() - fitting.keys()), sorted(saved.keys() - own.keys())
    loader = phase.loader
    assert loader is not None
    with loader:
        batch = loader.sampler.batch(0).to(backend.device)
        yield LoadedPhase(config, run, number, backend, store, checkpoint, phase, missing, unexpected, batch)


def run_steps(loaded: LoadedPhase) -> None:
    """Fills in loss, gradient norm, waiting and figures; no weight changes."""
    phase, loader, step = loaded.phase, loaded.phase.loader, loaded.checkpoint.step
    assert loader is not None
    times: list[tuple[float, float]] = []
    for _ in range(1 + STEPS):
        began, waited = time.perf_counter(), loader.waited_s
        phase.model.zero_grad(set_to_none=True)
        work = phase.draw()
        with loaded.backend.autocast():
            loss, sums = phase.loss(work, step)
        loss.backward()
        loaded.loss = float(loss.detach())  # waits for the device, as a step's end
        times.append((loader.waited_s - waited, time.perf_counter() - began))
    wait, whole = (statistics.median(column) for column in zip(*times[1:], strict=True))
    loaded.waiting = wait / whole if wait > BRIEF_S else 0.0
    gradients = [p.grad for p in phase.model.parameters() if p.grad is not None]
    loaded.norm = float(nn.utils.get_total_norm(gradients)) if gradients else 0.0
    with torch.no_grad():
        loaded.figures = {name: float(value) for name, value in phase.figures(sums, step).items()}
    phase.model.eval()
