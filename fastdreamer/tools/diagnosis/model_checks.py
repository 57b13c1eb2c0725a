"""Every phase: devices, what trains and what is frozen, the checkpoint's names, loss, gradient, memory."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import nn

from fastdreamer.health import limits as flags
from fastdreamer.health.checks import Check, check
from fastdreamer.run.metrics import read_curves
from fastdreamer.system.advice import command
from fastdreamer.tools.diagnosis.loaded_phase import LoadedPhase

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
        total = int(given * GIB) or _physical()
    name = f"phase{loaded.number}"
    return check(
        "memory", "memory", f"{used / GIB:.2f} of {total / GIB:.1f} GiB", f"at most {FULL:.0%}",
        f"lower {name}.micro_batch or set {name}.recompute=true; what fits is said by: {command('plan')}",
        red=used > FULL * total,
    )  # fmt: skip


def _physical() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    kib = next((int(line.split()[1]) for line in lines if line.startswith("MemTotal:")), 2**40)
    return kib * 1024
