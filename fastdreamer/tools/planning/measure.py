"""What a phase holds at its peak: the objects that train, run on fake tensors under the tracker."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fastdreamer.config import Config, TrainConfig
from fastdreamer.device import Backend
from fastdreamer.dynamics import fused
from fastdreamer.ranks.sharding import WHOLE, Shards, local, shard
from fastdreamer.tools.planning.allocator import Tracker, replay, rounded
from fastdreamer.tools.planning.stand_in import PlannedRanks, blank_phase, planned_mesh, use_gpu_operations
from fastdreamer.training.cloning_phase import AgentPhase
from fastdreamer.training.imagination_phase import ImaginationPhase
from fastdreamer.training.phase import Phase
from fastdreamer.training.step import Update
from fastdreamer.training.world_model_phase import ForcingBatch

PARTS = (
    "parameters", "gradients", "optimizer", "average", "frozen", "caches", "buffers", "communication", "activations",
)  # fmt: skip
"""Parts of what torch's allocator gives out. Phase 3's are caches (keys, values) and buffers (noise, rollouts).

What a sharded rank gathers, a block's weights, and what its gradients are added up in, is communication.
"""


@dataclass(frozen=True)
class Footprint:
    """Memory of a phase at its peak, in bytes by component.

    Attributes:
        parts: what is used then, by the names of `PARTS`.
        reserved: what the allocator has taken by the end to serve all requests.
        graphs: what captured rollouts keep for themselves.
    """

    parts: Mapping[str, int]
    reserved: int
    graphs: int = 0

    @property
    def used(self) -> int:
        """Sum of the parts."""
        return sum(self.parts.values())


class Fake(FakeTensorMode):
    """Copied models stay in the mode of their originals."""

    def __deepcopy__(self, memo: Any) -> Fake:
        return self


def measure(
    config: Config, number: int, backend: Backend, is_gpu: bool, is_fake: bool = True, shards: int = 1
) -> Footprint:
    """An update of a phase, with its `micro_batch` and `recompute`, that finds the optimisers' states there.

    Of the micro-batches the largest goes through, and meets the gradient of one before it where there are several:
    the others are like it. Of a rollout one step of two passes runs, for the same reason, on buffers for all of them;
    of the rollouts of a batch two, and what a dream leaves counts for the rest. Eager: a compiled step keeps less.

    Args:
        config: settled; micro_batch 0 is the whole batch.
        number: phase 1, 2 or 3.
        backend: a CPU, in the precision that is planned.
        is_gpu: plan a GPU's operations, not this CPU's.
        is_fake: False runs real tensors, to compare with.
        shards: the ranks that phase 1 is sharded over, of which this is the first; the batch is its own.
    """
    left = 0
    if number == 3:
        train = config.phase3
        rows = min(train.batch_size, 2 * (train.micro_batch or train.batch_size))
        left = train.batch_size - rows
        forcing = replace(config.forcing, sample_steps=min(2, config.forcing.sample_steps))
        config = replace(config, phase3=replace(train, batch_size=rows), forcing=forcing)
    train = config.phase(number)
    tracker = Tracker(is_gpu, is_fake)
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # torch's own, as it copies one
        mesh = stack.enter_context(planned_mesh(shards)) if shards > 1 else None
        stack.enter_context(Fake() if is_fake else nullcontext())
        stack.enter_context(tracker)
        phase = blank_phase(config, number, backend)
        if is_gpu:
            stack.enter_context(fused.plain())
            for module in (phase.model, *phase.frozen.values()):
                use_gpu_operations(module)
        if mesh is None or phase.transformer is None:
            return _run(phase, train, backend, tracker, left)
        stack.enter_context(tracker.resizes())
        ranks = PlannedRanks(shards, tracker.number)
        parts = shard(phase.model, phase.transformer, ranks, mesh, backend.precision == "bf16")
        return _run(phase, train, backend, tracker, left, parts, ranks.buffers)


def _run(
    phase: Phase[Any],
    train: TrainConfig,
    backend: Backend,
    tracker: Tracker,
    left: int,
    shards: Shards = WHOLE,
    buffers: Collection[int] = (),
) -> Footprint:
    update = Update(phase, train, backend, 0, shards)
    phase.model.train()
    phase.draw()  # makes what stays: imagination's programs
    _blank_gradients(update)
    update.apply(0)  # makes the optimisers' states
    if train.accumulate > 1:
        _blank_gradients(update)
    before = len(tracker.trace)
    work = phase.draw()
    transient = _growth(tracker.trace, before)
    micro_batches = work.split(update.micro_batches.micro_batches)
    if len(micro_batches) > 1:
        _blank_gradients(update)
    with backend.autocast():
        loss, _ = phase.loss(max(micro_batches, key=_size), 1)
    (loss / train.accumulate).backward()
    shards.receive()
    gradients = tracker.numbers(p.grad for p in update.parameters if p.grad is not None)
    work_bytes = sum(rounded(t.untyped_storage().nbytes()) for t in _tensors_of(work))
    del work, micro_batches, loss
    update.apply(1)
    if isinstance(phase, AgentPhase):
        phase.check(slice(-1, None))  # of micro-batches that differ by a row the last is a largest
    owners = {
        "parameters": tracker.numbers(_state_of(phase.model)),
        "gradients": gradients,
        "optimizer": tracker.numbers(_tensors_of([o.state for o in update.optimizers])),
        "average": tracker.numbers(update.ema.state.values()),
        "frozen": tracker.numbers(t for module in phase.frozen.values() for t in _state_of(module)),
    }
    programs = phase.programs if isinstance(phase, ImaginationPhase) else []
    owners["frozen"] |= tracker.numbers(t for program in programs for t in _state_of(program.world))
    owners["caches"] = tracker.numbers(t for program in programs for t in program.cache.tensors())
    owners["buffers"] = tracker.numbers(t for program in programs for t in program.buffers())
    owners["communication"] = frozenset(buffers) | tracker.refilled
    reserved, used, alive = replay(tracker.trace)
    sizes = {number: rounded(size) for number, size in tracker.trace if size >= 0}
    parts, rest = dict.fromkeys(PARTS, 0), alive
    for name, numbers in owners.items():
        parts[name] = sum(sizes[n] for n in rest & numbers)
        rest -= numbers
    parts["activations"] = sum(sizes[n] for n in rest)
    more = left * work_bytes // train.batch_size
    parts["buffers"] += more
    return Footprint(parts, reserved + more, transient * len(programs))


def _blank_gradients(update: Update) -> None:
    for parameter in update.phase.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)


def _size(piece: Any) -> tuple[int, int]:
    """Rows, and bootstrap rows among them."""
    rows = max(len(tensor) for tensor in _tensors_of(piece) if tensor.ndim)
    return rows, piece.levels.boots if isinstance(piece, ForcingBatch) else 0


def _growth(trace: Sequence[tuple[int, int]], start: int) -> int:
    """How far the bytes in use rise above those at `start`, of what has ended again by the end of the trace."""
    ended = {number for number, size in trace[start:] if size < 0}
    sizes = dict[int, int]()
    now = most = 0
    for number, size in trace[start:]:
        if size < 0 and number in sizes:
            now -= sizes.pop(number)
        elif size >= 0 and number in ended:
            sizes[number] = rounded(size)
            now += sizes[number]
            most = max(most, now)
    return most


def _state_of(module: nn.Module) -> Iterable[Tensor]:
    return map(local, chain(module.parameters(), module.buffers()))


def _tensors_of(value: Any) -> Iterable[Tensor]:
    """All tensors in nested dataclasses, dicts and sequences."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors_of(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors_of(item)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from _tensors_of(getattr(value, name))
