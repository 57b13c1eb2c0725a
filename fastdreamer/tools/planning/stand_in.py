"""A phase without data or weights: crops of zeros in the right shapes, and the same objects that train.

A run of it on a CPU must do some operations otherwise to hold what a GPU would hold: `use_gpu_operations`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from fastdreamer.config import Config
from fastdreamer.device import Backend
from fastdreamer.dynamics.attention import Attention
from fastdreamer.dynamics.norm import RMSNorm
from fastdreamer.latents.batch import Batch
from fastdreamer.latents.crop_sampler import CropSampler
from fastdreamer.latents.loader import Loader
from fastdreamer.latents.resident import ResidentSteps
from fastdreamer.latents.schedule import Share
from fastdreamer.ranks.membership import Ranks
from fastdreamer.recordings.actions import action_space
from fastdreamer.training.build import KINDS, Kind, build_phase
from fastdreamer.training.imagination_phase import ImaginationPhase
from fastdreamer.training.phase import Phase
from fastdreamer.training.phase_data import held_out_crops
from fastdreamer.training.world_model_phase import WorldModelPhase, bootstrap_share

CPU = torch.device("cpu")


class BlankSteps(ResidentSteps):
    """No steps, of which it is said that they have rewards."""

    def __init__(self) -> None:
        self.fields = {"reward_valid": torch.ones(1, dtype=torch.bool)}


class BlankSampler(CropSampler):
    """A sampler that stands for the crops of a phase, with their lengths and no data."""

    def __init__(self, config: Config, number: int) -> None:
        self.table = BlankSteps()
        self.config, self.count = config, config.phase(number).batch_size
        self.steps = config.imagination.start_context if number == 3 else config.dynamics.window

    def batch(self, number: int) -> Batch:
        """A batch of zeros, whatever its number."""
        return blank(self.config, self.count, self.steps)


class BlankLoader(Loader):
    """Batches of zeros, that of phase 1 always the one with the most bootstrap rows."""

    def __init__(self, config: Config, number: int) -> None:
        super().__init__(BlankSampler(config, number), CPU)
        self.number = most_of(bootstrap_share(config), config.phase1.batch_size) if number == 1 else 0

    @property
    def position(self) -> int:
        """Position of the next batch, which is always the same one."""
        return self.number


def most_of(share: Share, rows: int) -> int:
    """The number of a batch of `rows` that holds as many of the share as any does.

    Batch n holds one more than others where (n rows per + offset) modulo `of` is among the last (rows per) modulo `of`.
    """
    step, of = rows * share.per % share.of, share.of
    if not step:
        return 0
    unit = math.gcd(step, of)
    last = of - 1 - (of - 1 - share.offset) % unit  # the largest rest that some batch has
    return (last - share.offset) // unit * pow(step // unit, -1, of // unit) % (of // unit)


def blank(config: Config, crops: int, steps: int) -> Batch:
    """Crops of zeros in a configuration's shapes."""
    components = len(action_space(config.data.env).components)
    return Batch.blank(crops, steps, config.tokenizer.frames_per_latent, components)


def blank_phase(config: Config, number: int, backend: Backend) -> Phase[Any]:
    """Phase 1, 2 or 3 as `train` builds it, on blank crops."""
    kinds: dict[int, Kind] = {
        1: partial(WorldModelPhase, first_boot=0),
        2: lambda *parts: KINDS[2](*parts, blank(config, held_out_crops(config), config.dynamics.window)),
        3: partial(ImaginationPhase, proves=False, steps=1),  # the other steps of a rollout would be like the first
    }
    return build_phase(config, number, BlankLoader(config, number), None, backend, kinds[number])


class PlannedRanks(Ranks):
    """The first of several ranks that are not there: what they would send is whatever memory holds.

    Attributes:
        buffers: the numbers that `note` gives to what weights are gathered in and gradients added up.
    """

    def __init__(self, world: int, note: Callable[[Tensor], int]) -> None:
        self.world, self.note = world, note
        self.buffers: set[int] = set()

    @contextmanager
    def waiting(self, sent: Tensor | None = None) -> Iterator[None]:
        """Nobody is waited for."""
        yield

    def empty(self, size: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """A buffer, which is noted."""
        out = torch.empty(*size, dtype=dtype, device=device)
        self.buffers.add(self.note(out))
        return out

    def total(self, parts: Tensor) -> Tensor:
        """The part itself."""
        return parts

    def gather_into(self, out: Tensor, part: Tensor) -> None:
        """Leaves `out` as it is."""


@contextmanager
def planned_mesh(world: int) -> Iterator[Any]:
    """The mesh of ranks that are not there, for FSDP2."""
    dist.init_process_group("fake", rank=0, world_size=world)
    try:
        yield init_device_mesh("cpu", (world,))
    finally:
        dist.destroy_process_group()


def use_gpu_operations(model: nn.Module) -> None:
    """Attention is fused in bf16 too, and RMSNorm is one operation.

    A CPU build of torch takes the norm apart and keeps three fp32 copies of its input.
    """
    for module in model.modules():
        if isinstance(module, Attention):
            module.is_fused = True
        elif isinstance(module, RMSNorm):
            module.forward = MethodType(_fused_norm, module)  # type: ignore[method-assign]


def _fused_norm(norm: RMSNorm, x: Tensor) -> Tensor:
    out: Tensor = _FusedNorm.apply(x, norm.weight.to(x.dtype))  # type: ignore[no-untyped-call]
    return out


class _FusedNorm(torch.autograd.Function):
    """What `aten::_fused_rms_norm` and its backward make and keep: the result, and 1 / RMS of each row in fp32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor) -> Tensor:
        ctx.save_for_backward(x, gain, x.new_empty((*x.shape[:-1], 1), dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, gain, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(gain)
