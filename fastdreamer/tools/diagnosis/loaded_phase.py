"""What is diagnosed: a trained phase of a run, loaded afresh, with one step run on a sample batch.

And the checks of every phase: devices, what trains and what is frozen, the checkpoint's names, loss, gradient, memory.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fastdreamer.config import Config
from fastdreamer.device import Backend
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.health import limits as flags
from fastdreamer.health.checks import Check, check
from fastdreamer.latents.batch import Batch
from fastdreamer.latents.store import LatentStore
from fastdreamer.run.checkpoint import Checkpoint, strip_compiled_prefix
from fastdreamer.run.directory import RunDirectory
from fastdreamer.run.metrics import read_curves
from fastdreamer.system.advice import command
from fastdreamer.system.cores import MEMINFO, kernel_bytes
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
    """Open the run's phase `number`; UserError if it is not trained, or a part of the run is damaged."""
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


TRAINS = {1: ("world.",), 2: ("agent.",), 3: ("policy.", "value.")}
"""Beginnings of the names of what a phase trains, in its model."""
CURVES = {1: "loss/dynamics", 2: "loss/policy"}
"""What should fall; phase 3's losses carry no verdict."""
GIB = 2**30
FULL = 11 / 12  # the share of a GPU that counts as full


def checks(loaded: LoadedPhase) -> Iterator[Check]:
    """All checks of a phase, after `run_steps`."""
    yield from devices(modules_of(loaded), loaded.backend.device)
    yield trained(loaded)
    yield frozen(loaded)
    yield reached(loaded)
    yield names(loaded)
    number = loaded.number
    yield flags.finite(number, loaded.loss)
    yield flags.gradient_norm(number, loaded.norm)
    yield flags.wait_share(loaded.waiting, number)
    if number in CURVES:
        yield loss_curve(loaded)
    yield memory(loaded)


def modules_of(loaded: LoadedPhase) -> dict[str, nn.Module]:
    """The phase's model's parts and what it was built on, by name."""
    parts = {name: module for name, module in loaded.phase.model.named_children() if name != "scale"}
    return {**dict(loaded.phase.frozen), **parts}


def devices(modules: Mapping[str, nn.Module], device: torch.device) -> Iterator[Check]:
    """Check of every module where it is, and whether it trains."""
    for name, module in modules.items():
        parameters = list(module.parameters())
        where = sorted({p.device.type for p in parameters}) or ["no parameters"]
        training = sum(p.requires_grad for p in parameters)
        yield check(
            "models", f"{name}: device", f"{', '.join(where)}; {training} of {len(parameters)} tensors train",
            device.type, f"move {name} to {device.type}: its parts must lie where the batches do",
            red=bool(parameters) and where != [device.type],
        )  # fmt: skip


def trained(loaded: LoadedPhase) -> Check:
    """Check that the optimisers hold exactly what should train."""
    begins = TRAINS[loaded.number]
    wanted = {name for name, _ in loaded.phase.model.named_parameters() if name.startswith(begins)}
    held = set(loaded.trained)
    wrong = sorted(wanted ^ held)
    what = f"{len(held)} tensors" + (f"; {wrong[0]} is {'held' if wrong[0] in held else 'missing'}" if wrong else "")
    return check(
        "models", "parameter groups", what, f"the {len(wanted)} tensors of {', '.join(b[:-1] for b in begins)}",
        "requires_grad is wrong there: what should train must require gradients, and nothing else", red=bool(wrong),
    )  # fmt: skip


def frozen(loaded: LoadedPhase) -> Check:
    """Check that nothing that is frozen requires a gradient or has one."""
    held = {id(p) for p in loaded.trained.values()}
    loose = [
        f"{part}.{name}"
        for part, module in loaded.phase.frozen.items()
        for name, p in module.named_parameters()
        if id(p) not in held and (p.requires_grad or p.grad is not None)
    ]
    return check(
        "models", "frozen parts", f"{len(loose)} tensors are not frozen ({loose[0]})" if loose else "frozen",
        "no gradient on tokenizer, dynamics or reward", "freezing failed: set requires_grad_(False) on that module",
        red=bool(loose),
    )  # fmt: skip


def reached(loaded: LoadedPhase) -> Check:
    """Check that the gradient reaches what should train."""
    trained = loaded.trained
    dead = [name for name, p in trained.items() if p.grad is None and p.numel()]
    return check(
        "models", "gradient reaches", f"{len(trained) - len(dead)} of {len(trained)} tensors", "all of them",
        f"{dead[0] if dead else ''} gets no gradient: it is cut off the loss, or its term does not train",
        amber=0 < len(dead) < len(trained), red=len(dead) == len(trained),
    )  # fmt: skip


def names(loaded: LoadedPhase) -> Check:
    """Check that the checkpoint's parameters are the model's, without compile's prefixes."""
    prefixed = [n for tensors in loaded.checkpoint.tensors.values() for n in tensors if "_orig_mod." in n]
    missing, unexpected = loaded.missing, loaded.unexpected
    found = f"{len(missing)} missing, {len(unexpected)} unexpected, {len(prefixed)} with a compile prefix"
    first = [*missing, *unexpected, *prefixed][:1]
    return check(
        "checkpoint", "names", found + (f" ({first[0]})" if first else ""), "0, 0 and 0",
        "the checkpoint is of another architecture: train the phase again, or load it with strip_compiled_prefix()",
        red=bool(missing or unexpected), amber=bool(prefixed),
    )  # fmt: skip


def loss_curve(loaded: LoadedPhase) -> Check:
    """Check the losses in the run's metrics."""
    points = read_curves(loaded.run.path).get(loaded.number, {}).get(CURVES[loaded.number], [])
    if not points:
        return Check("loss", "loss curve", "no metrics.jsonl", "falls, without spikes", "not measured")
    return flags.loss_curve(loaded.number, [value for _, value in points])


def memory(loaded: LoadedPhase) -> Check:
    """Check what a step takes, against the budget."""
    given, device = loaded.config.memory_gb, loaded.backend.device
    if device.type == "cuda":
        used = torch.cuda.max_memory_reserved(device)
        total = int(given * GIB) or torch.cuda.get_device_properties(device).total_memory
    else:
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        total = int(given * GIB) or kernel_bytes(MEMINFO, "MemTotal") or 2**50
    name = f"phase{loaded.number}"
    return check(
        "memory", "memory", f"{used / GIB:.2f} of {total / GIB:.1f} GiB", f"at most {FULL:.0%}",
        f"lower {name}.micro_batch or set {name}.recompute=true; what fits is said by: {command('plan')}",
        red=used > FULL * total,
    )  # fmt: skip
