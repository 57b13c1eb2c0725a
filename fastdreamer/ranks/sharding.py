"""Sharded training: every rank keeps some rows of each of a transformer's weights, with their gradient and optimiser.

FSDP2 (`fully_shard`) gathers a block's weights for its pass and adds its gradients up, so that each rank has the sums
of its own rows. What is not in a block is small and stays whole on every rank, where `Sums` adds it up.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

gather_parts: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
sum_parts: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
"""Torch's collectives; their older names warn where there are newer ones."""


class Others(Protocol):
    """The part of `Group` that sharding needs."""

    @property
    def rank(self) -> int: ...
    @property
    def world(self) -> int: ...
    def waiting(self, sent: Tensor | None = None) -> AbstractContextManager[None]: ...
    def empty(self, size: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor: ...
    def total(self, parts: Tensor) -> Tensor: ...
    def gather_into(self, out: Tensor, part: Tensor) -> None: ...


class Shards:
    """The parameters that are held in parts; of a model that every rank holds whole, none.

    A part is the rank's rows: ceil(rows / world) each, as long as there are any. Optimisers update `nn.Parameter`s that
    share memory with FSDP2's own, so that they see plain tensors.

    Attributes:
        rows: rows of the whole of each sharded parameter, by its name in the model.
    """

    def __init__(self, model: nn.Module | None = None, group: Others | None = None) -> None:
        named = {} if model is None else {n: p for n, p in model.named_parameters() if is_part(p)}
        self.rows = {name: len(parameter) for name, parameter in named.items()}
        self.model, self.group = model, group
        self._theirs: Mapping[str, Any] = named
        self._own = {name: nn.Parameter(local(parameter)) for name, parameter in named.items()}
        self._rows = {id(self._own[name]): rows for name, rows in self.rows.items()}

    def __bool__(self) -> bool:
        return bool(self.rows)

    def named(self, model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that this rank updates, by name."""
        return ((name, self._own.get(name, parameter)) for name, parameter in model.named_parameters())

    def rows_of(self, parameter: Tensor) -> int:
        """Rows of the whole of which a parameter of `named` holds some; 0 where it is whole itself."""
        return self._rows.get(id(parameter), 0)

    def receive(self) -> None:
        """Hands the gradients that a backward pass left over to the parameters of `named`."""
        for name, parameter in self._theirs.items():
            self._own[name].grad = None if parameter.grad is None else local(parameter.grad)

    def forget(self) -> None:
        """Frees the gradients."""
        for parameter in self._theirs.values():
            parameter.grad = None

    def norm(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """The norm of the gradients of all ranks' parts."""
        with_gradient = [(p, p.grad) for p in parameters if p.grad is not None]
        if not self:
            return nn.utils.get_total_norm([gradient for _, gradient in with_gradient], foreach=None)
        both: tuple[list[Tensor], list[Tensor]] = [], []
        for parameter, gradient in with_gradient:
            both[bool(self.rows_of(parameter))].append(gradient)
        whole, parts = (nn.utils.get_total_norm(gradients).square() for gradients in both)
        assert self.group is not None
        return (whole + self.group.total(parts)).sqrt()

    def own(self, whole: Tensor, dim: int = 0) -> Tensor:
        """This rank's rows of a whole tensor."""
        assert self.group is not None
        most = -(-whole.shape[dim] // self.group.world)
        first = min(most * self.group.rank, whole.shape[dim])
        return whole.narrow(dim, first, min(most, whole.shape[dim] - first))

    def whole(self, part: Tensor, rows: int, dim: int = 0) -> Tensor:
        """The whole tensor of `rows` rows, from all ranks' parts; all ranks call it."""
        assert self.group is not None
        most, world = -(-rows // self.group.world), self.group.world
        part = part.movedim(dim, 0)
        padded = part.new_zeros(most, *part.shape[1:])
        padded[: len(part)] = part
        out = padded.new_empty(world * most, *part.shape[1:])
        self.group.gather_into(out, padded)
        return out[:rows].movedim(0, dim)

    def loadable(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A model's state of whole tensors, as `load_state_dict` takes it."""
        from torch.distributed.tensor import distribute_tensor

        found = dict(whole)
        for name in self.rows.keys() & whole.keys():
            mesh, placements = self._theirs[name].device_mesh, self._theirs[name].placements
            found[name] = distribute_tensor(whole[name].to(mesh.device_type), mesh, placements, src_data_rank=None)
        return found


WHOLE = Shards()


def is_part(tensor: Tensor) -> bool:
    """Whether FSDP2 holds a part of it alone here."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor, without a gradient's history."""
    found = tensor.detach()
    return found.to_local() if is_part(found) else found  # type: ignore[attr-defined]


def local_state(module: nn.Module) -> dict[str, Tensor]:
    """A module's state dict, of sharded parameters this rank's rows."""
    return {name: local(value) for name, value in module.state_dict().items()}


def shard(model: nn.Module, transformer: nn.Module, group: Others, mesh: DeviceMesh, is_bf16: bool) -> Shards:
    """Shards the `blocks` of `transformer`, a part of `model`, over all ranks, in place.

    A block's weights are gathered in bf16 where products run in it: autocast would round them so anyway. Gradients are
    added up in fp32. A block's weights are freed after its pass, and gathered again for the backward pass.
    """
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if is_bf16 else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    blocks = transformer.blocks
    assert isinstance(blocks, nn.ModuleList)
    units = [fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=True) for block in blocks]
    rest = {p for p in transformer.parameters() if not is_part(p)}
    fully_shard(transformer, mesh=mesh, mp_policy=policy, ignored_params=rest)  # the root, which orders the blocks
    # Nothing writes into what a block gives.
    warnings.filterwarnings("ignore", r"FSDP2-wrapped module \(.*\) returned a view tensor", UserWarning)
    for number, unit in enumerate(units):
        assert isinstance(unit, FSDPModule)
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
        unit.set_custom_all_gather(Gather(group))  # type: ignore[arg-type]
        unit.set_custom_reduce_scatter(Scatter(group))  # type: ignore[arg-type]
        # Of a block that ran several times the default takes the last run's neighbour, and gathers one in vain.
        unit.set_modules_to_backward_prefetch([units[max(0, number - 1)]])
    return Shards(model, group)


class Gather:
    """FSDP2's all-gather of a block's weights, counted, and ended with the others."""

    def __init__(self, group: Others) -> None:
        self.group = group

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The buffer, as FSDP2 would make it."""
        return self.group.empty(size, dtype, device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> Any:
        with self.group.waiting(input_tensor):
            return gather_parts(output_tensor, input_tensor, group=group, async_op=async_op)


class Scatter(Gather):
    """FSDP2's reduce-scatter of a block's gradients."""

    def __call__(  # type: ignore[override]
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, op: Any, async_op: bool = False
    ) -> Any:
        with self.group.waiting(input_tensor):
            return sum_parts(output_tensor, input_tensor, op=op, group=group, async_op=async_op)
