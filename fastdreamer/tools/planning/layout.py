"""Several GPUs: what one rank is planned for, and whether each should hold the whole model or a part of it."""

from __future__ import annotations

from dataclasses import replace

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.tools.planning.plan import Plan, Planner, change_of, size


def of_one_rank(config: Config, number: int, ranks: int) -> Config:
    """The configuration with one rank's rows of a phase's batch.

    Raises:
        UserError: if the batch cannot be shared.
    """
    train = config.phase(number)
    needs_same = number == 3 or (number == 1 and config.ranks.shard and ranks > 1)
    if train.batch_size < ranks or (needs_same and train.batch_size % ranks):
        raise UserError(
            f"phase{number}.batch_size is {train.batch_size}, which {ranks} ranks cannot share: make it "
            + (f"a multiple of {ranks}" if needs_same else f"{ranks} at least")
        )
    return config.with_phase(number, replace(train, batch_size=-(-train.batch_size // ranks)))


def layout(planner: Planner, plan: Plan) -> str:
    """A line that proposes a layout for several GPUs; empty for one."""
    if planner.ranks == 1:
        return ""
    held = "shards the blocks" if planner.shards > 1 else "holds the whole model"
    rows = f"takes {plan.train.batch_size} of {planner.global_batch} rows"
    line = f"  layout: {planner.ranks} ranks, each {held} and {rows}"
    if planner.shards > 1 and _like(planner, is_sharded=False).configured().fits:
        line += "; it would fit whole too, which sends less: leave ranks.shard out"
    return line


def nearest(planner: Planner) -> tuple[Planner, Plan] | None:
    """The nearest settings that fit, sharded where nothing else helps; None where that does not help either."""
    if (change := planner.change()) is not None:
        return planner, change
    is_even = planner.global_batch % planner.ranks == 0
    if planner.shards > 1 or planner.ranks == 1 or planner.number != 1 or not is_even:
        return None
    other = _like(planner, is_sharded=True)
    plan = other.configured()
    found = plan if plan.fits else other.change()
    return None if found is None else (other, found)


def words_for(planner: Planner, plan: Plan) -> list[str]:
    """The overrides that lead to a plan, sharding among them."""
    words = change_of(planner.train, plan, planner.ranks)
    return ["ranks.shard=true", *words] if planner.shards > 1 and not planner.config.ranks.shard else words


def refusal_of(planner: Planner, said: str) -> str:
    """What would fit, behind what is `said` of a plan that does not."""
    found = nearest(planner)
    if found is None:
        shards = planner.number == 1 and planner.config.ranks.shard
        more = f", or start more ranks than {planner.ranks} (torchrun)" if shards or planner.shards > 1 else ""
        return f"{said}, and no setting of the phase makes it fit: lower dynamics.dim or dynamics.layers{more}"
    words = " ".join(words_for(*found))
    return f"{said}: {words or f'phase{planner.number}.micro_batch=0'} would plan {size(found[1].reserved)}"


def _like(planner: Planner, is_sharded: bool) -> Planner:
    return Planner(
        planner.config, planner.number, planner.budget, planner.store_bytes, planner.ranks, is_sharded,
        planner.global_batch,
    )  # fmt: skip
