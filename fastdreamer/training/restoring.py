"""The tensors of a phase that trains: what of them a checkpoint holds, and a phase filled from one.

A checkpoint knows no number of ranks: it holds whole tensors, and each rank takes its rows out again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fastdreamer.device import set_random_states
from fastdreamer.errors import UserError
from fastdreamer.ranks.sharding import local_state
from fastdreamer.run.checkpoint import Checkpoint
from fastdreamer.training.step import Update

Groups = dict[str, Mapping[str, Tensor]]


def held(update: Update) -> Groups:
    """What this rank trains and what it draws from, by group; of what is sharded its own rows."""
    return {
        "model": local_state(update.phase.model),
        "ema": update.ema.state,
        "optimizer": _optimizer_tensors(update.optimizers),
        "random": {name: generator.get_state() for name, generator in update.phase.generators.items()},
    }


def rows_of(update: Update) -> dict[str, dict[str, int]]:
    """Rows of the whole of every tensor of `held` that is a part, by group and name."""
    shards = update.shards
    optimizer = {
        f"{prefix}.{key}": shards.rows_of(weight)
        for prefix, weight, state in _states(update.optimizers)
        for key, value in state.items()
        if shards.rows_of(weight) and value.shape == weight.shape
    }
    return {"model": shards.rows, "ema": shards.rows, "optimizer": optimizer}


def share(update: Update) -> Groups:
    """This rank's share of the tensors of `held`, each whole; all ranks call it.

    The main rank has what is not sharded. The rest is dealt out so that every rank has about as many bytes, in its host
    memory: each tensor goes to the rank that has the fewest.
    """
    groups, rows, ranks = held(update), rows_of(update), update.micro_batches.ranks
    found = {
        group: {k: v for k, v in tensors.items() if ranks.is_main and k not in rows.get(group, {})}
        for group, tensors in groups.items()
    }
    whole = [x for group, tensors in groups.items() for name, x in tensors.items() if name not in rows.get(group, {})]
    loads = [sum(x.nbytes for x in whole)] + [0] * (ranks.world - 1)
    for group, names in rows.items():
        for name, count in names.items():
            tensor = update.shards.whole(groups[group][name], count)
            owner = loads.index(min(loads))
            loads[owner] += tensor.nbytes
            if owner == ranks.rank:
                found[group][name] = tensor.cpu()
    return dict(found)


def restore(saved: Checkpoint, update: Update, device: torch.device) -> None:
    """Fills a phase, its optimisers, averages and generators from a checkpoint.

    Raises:
        UserError: if it holds other tensors than the phase is made of.
    """
    phase, shards, ema = update.phase, update.shards, update.ema
    with _fitting(saved):
        phase.model.load_state_dict(shards.loadable(saved.tensors["model"]))
        means = saved.tensors["ema"]
        if {k: v.shape for k, v in means.items()} != {k: v.shape for k, v in phase.model.state_dict().items()}:
            raise ValueError("its averages are not those of this phase's weights")
        own = {k: shards.own(v) if k in shards.rows else v for k, v in means.items()}
        ema.state = {k: v.to(ema.state[k].device, copy=k in shards.rows) for k, v in own.items()}
        states: list[dict[int, dict[str, Tensor]]] = [{} for _ in update.optimizers]
        for name, value in saved.tensors.get("optimizer", {}).items():
            owner, index, key = name.split(".", 2)
            states[int(owner)].setdefault(int(index), {})[key] = value
        for optimizer, state in zip(update.optimizers, states, strict=True):
            weights = _weights(optimizer)
            for place, entry in state.items():
                weight = weights[place]
                rows = shards.rows_of(weight)
                shape = torch.Size((rows, *weight.shape[1:])) if rows else weight.shape
                if any(x.numel() not in (1, shape.numel()) for x in entry.values()):
                    raise ValueError("its optimiser is not that of this phase's weights")
                state[place] = {k: shards.own(x).clone() if rows and x.shape == shape else x for k, x in entry.items()}
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        for name, generator in phase.generators.items():
            generator.set_state(saved.tensors["random"][name])
        set_random_states(saved.tensors["random"], device)


@contextmanager
def _fitting(saved: Checkpoint) -> Iterator[None]:
    """What a checkpoint that is whole may hold all the same: other tensors than a phase is made of."""
    try:
        yield
    except UserError:
        raise
    except (RuntimeError, LookupError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{saved.path} was begun with another version and cannot go on: train the phase in another --run-dir "
            f"({reason})"
        ) from None


def _optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The state of every optimiser as tensors named optimiser.parameter.key."""
    return {f"{prefix}.{key}": value for prefix, _, state in _states(optimizers) for key, value in state.items()}


def _states(optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[tuple[str, Tensor, Mapping[str, Any]]]:
    """Optimiser.parameter, the parameter, and its state, if it has one."""
    for number, optimizer in enumerate(optimizers):
        for index, weight in enumerate(_weights(optimizer)):
            if state := optimizer.state.get(weight):
                yield f"{number}.{index}", weight, state


def _weights(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]
