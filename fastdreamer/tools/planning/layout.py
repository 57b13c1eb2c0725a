"""Several GPUs: what one rank is planned for, and whether each should hold the whole model or a part of it."""

from __future__ import annotations

from dataclasses import replace

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.tools.planning.plan import Plan, Planner, change_of, size

MOST_RANKS = 256


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


def sharded(planner: Planner) -> Planner | None:
    """The same phase with its weights sharded; None where it already is, is not to be, or its batch forbids it."""
    is_even = planner.global_batch % planner.ranks == 0
    if planner.shards > 1 or planner.ranks == 1 or planner.number != 1 or not is_even:
        return None
    return Planner(
        planner.config, planner.number, planner.budget, planner.store_bytes, planner.ranks, True, planner.global_batch
    )


def layout(planner: Planner, plan: Plan) -> str:
    """A line that proposes a layout for so many GPUs."""
    if planner.ranks == 1:
        return ""
    held = "holds its part of the blocks" if planner.shards > 1 else "holds the whole model"
    line = (
        f"  layout: {planner.ranks} ranks, each {held} and takes {plan.train.batch_size} of {planner.global_batch} rows"
    )
    if planner.shards > 1:
        whole = Planner(
            planner.config, planner.number, planner.budget, planner.store_bytes, planner.ranks, False,
            planner.global_batch,
        )  # fmt: skip
        if whole.configured().fits:
            line += "; it would fit whole too, which sends less: leave ranks.shard out"
    elif not plan.fits and (other := sharded(planner)) is not None and (found := fitting(other)) is not None:
        line += f"; sharded it fits: {' '.join(words_for(other, found))}"
    return line


def fitting(planner: Planner) -> Plan | None:
    """The plan as configured if that fits, else the nearest that does."""
    plan = planner.configured()
    return plan if plan.fits else planner.change()


def words_for(planner: Planner, plan: Plan) -> list[str]:
    """The overrides that lead to a plan, sharding among them."""
    words = change_of(planner.train, plan, planner.ranks)
    return ["ranks.shard=true", *words] if planner.shards > 1 and not planner.config.ranks.shard else words


def refusal_of(planner: Planner, said: str) -> str:
    """What would fit, behind what is `said` of a plan that does not."""
    name = f"phase{planner.number}"
    change = planner.change()
    if change is None and (other := sharded(planner)) is not None and (found := fitting(other)) is not None:
        return f"{said}: {' '.join(words_for(other, found))} would plan {size(found.reserved)}"
    if change is None:
        more = f", or share it out over more than {planner.ranks} GPUs" if planner.shards > 1 else ""
        return f"{said}, and no setting of the phase makes it fit: lower dynamics.dim or dynamics.layers{more}"
    words = " ".join(words_for(planner, change))
    return f"{said}: {words or f'{name}.micro_batch=0'} would plan {size(change.reserved)}"
