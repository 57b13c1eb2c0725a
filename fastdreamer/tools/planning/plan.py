"""The plan of a phase: what it takes as configured, whether that fits, and the nearest settings that would.

Micro-batches, recomputed activations and the store's place change no gradient, so they are tried first and in that
order; smaller batches that are accumulated are the last resort. Below: plans as lines, tables and plain numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastdreamer.config import Config, TrainConfig
from fastdreamer.ranks.sums import BUCKET_BYTES
from fastdreamer.tools.planning.gpus import CONTEXT, GIB, WORKSPACES, Budget
from fastdreamer.tools.planning.measure import PARTS, measure

PHASES = (1, 2, 3)
KINDS = {1: "crops", 2: "crops", 3: "dreams"}
GUESSES = 6
"""Most tries for the largest number at once: memory is nearly affine in it, so a secant is there in two or three."""
NEAR = 0.02
"""A share of the limit: near enough where the number is only shown."""


@dataclass(frozen=True)
class Plan:
    """The memory of one phase under some settings.

    Attributes:
        train: the phase's settings, `micro_batch` settled.
        rows: bytes by component; their sum is what torch's allocator reserves.
        limit: what it may reserve; `context`: what lies outside of it.
        in_ram: the latent store is not on the GPU, where it would be as configured.
    """

    number: int
    train: TrainConfig
    rows: Mapping[str, int]
    limit: int
    context: int
    in_ram: bool = False

    @property
    def reserved(self) -> int:
        """Bytes reserved at the peak."""
        return sum(self.rows.values())

    @property
    def fits(self) -> bool:
        """Whether that keeps the limit."""
        return self.reserved <= self.limit

    @property
    def at_once(self) -> int:
        """Crops, or dreams, in the largest micro-batch."""
        return -(-self.train.batch_size // -(-self.train.batch_size // self.train.micro_batch))

    @property
    def settings(self) -> dict[str, int | bool]:
        """What the plan chose, by name."""
        return {name: getattr(self.train, name) for name in ("micro_batch", "recompute", "batch_size", "accumulate")}


class Planner:
    """Plans of one phase, beside the latent store's share of the GPU; each setting is measured once.

    Args:
        config: its batch is one rank's, where there are several.
        ranks: how many train together.
        is_sharded: whether they shard phase 1.
        global_batch: the batch of all ranks together; by default as if each had as much as this one.
    """

    def __init__(
        self,
        config: Config,
        number: int,
        budget: Budget,
        store_bytes: int = 0,
        ranks: int = 1,
        is_sharded: bool = False,
        global_batch: int = 0,
    ) -> None:
        self.config, self.number, self.budget, self.store_bytes = config, number, budget, store_bytes
        self.ranks, self.shards = ranks, ranks if is_sharded and number == 1 else 1
        self.train = config.phase(number)
        self.global_batch = global_batch or ranks * self.train.batch_size
        self._made: dict[TrainConfig, Plan] = {}

    def configured(self) -> Plan:
        """The plan as configured; with micro_batch 0 the largest that fits, else micro-batches of one row."""
        return self.at(self.train) if self.train.micro_batch else self.most_at_once(self.train)

    def change(self) -> Plan | None:
        """The nearest settings that fit; None where no setting of the phase makes it fit."""
        tried: list[tuple[TrainConfig, bool]] = [(self.train, False)]
        if self._recomputes and not self.train.recompute:
            tried.append((replace(self.train, recompute=True), False))
        last = tried[-1][0]
        if self.store_bytes:
            tried.append((last, True))
        while last.batch_size % 2 == 0:
            last = replace(last, batch_size=last.batch_size // 2, accumulate=2 * last.accumulate)
            tried.append((last, bool(self.store_bytes)))
        if not self._least(*tried[-1]).fits:
            return None
        return self.most_at_once(*next(one for one in tried if self._least(*one).fits))

    def most_at_once(self, train: TrainConfig, in_ram: bool = False) -> Plan:
        """The plan with the largest micro-batches that fit, else the smallest. `in_ram`: the store leaves the GPU."""
        batch = train.batch_size
        sizes = sorted({-(-batch // micro_batches) for micro_batches in range(1, batch + 1)})
        return _largest(lambda size: self.at(replace(train, micro_batch=size), in_ram), sizes)

    def room(self) -> Plan:
        """The plan with as many at once as fit, whatever the batch size: how far that could grow (at most 64-fold)."""
        sizes = range(self.configured().at_once, 64 * self.train.batch_size + 1)
        return _largest(lambda size: self.at(replace(self.train, micro_batch=size, batch_size=size)), sizes, NEAR)

    def _least(self, train: TrainConfig, in_ram: bool) -> Plan:
        return self.at(replace(train, micro_batch=1), in_ram)

    def at(self, train: TrainConfig, in_ram: bool = False) -> Plan:
        """The plan under settings with a `micro_batch`."""
        train = replace(train, micro_batch=min(train.micro_batch, train.batch_size))
        if train not in self._made:
            self._made[train] = self._measured(train)
        plan = self._made[train]
        return replace(plan, rows=dict(plan.rows) | {"store": 0}, in_ram=True) if in_ram else plan

    def _measured(self, train: TrainConfig) -> Plan:
        config = self.config.with_phase(self.number, train)
        is_gpu = self.budget.is_gpu
        found = measure(config, self.number, self.budget.backend, is_gpu, shards=self.shards)
        rows = {name: found.parts[name] for name in PARTS}
        rows["communication"] += BUCKET_BYTES if self.ranks > 1 else 0
        rows["fragmentation"] = found.reserved - found.used
        if is_gpu:
            captures = self.number == 3 and config.imagination.capture != "off"
            rows |= {"graphs": found.graphs if captures else 0, "store": self.store_bytes, "workspaces": WORKSPACES}
        return Plan(self.number, train, rows, self.budget.limit, CONTEXT if is_gpu else 0)

    @property
    def _recomputes(self) -> bool:
        """Whether there are activations of the transformer to compute again."""
        return self.number == 1 or (self.number == 2 and self.config.heads.readout == "agent_tokens")


def _largest(plan_at: Callable[[int], Plan], sizes: Sequence[int], near: float = 0.0) -> Plan:
    """The plan at the largest size that fits, found on the line between a size that fits and one that does not."""
    low, high = 0, len(sizes) - 1
    above = plan_at(sizes[high])
    if above.fits:
        return above
    best = plan_at(sizes[low])
    if not best.fits:
        return best
    for _ in range(GUESSES):
        if high - low <= 1 or best.reserved > (1 - near) * best.limit:
            break
        slope = (above.reserved - best.reserved) / (sizes[high] - sizes[low])
        wanted = sizes[low] + (best.limit - best.reserved) / slope
        guess = max((i for i in range(low, high) if sizes[i] <= wanted), default=low) if slope > 0 else low
        middle = min(max(guess, low + 1), high - 1)
        plan = plan_at(sizes[middle])
        if plan.fits:
            low, best = middle, plan
        else:
            high, above = middle, plan
    return best


LABELS = {
    "parameters": "parameters and buffers",
    "gradients": "gradients",
    "optimizer": "optimiser state",
    "average": "averaged weights (EMA)",
    "frozen": "frozen models and their bf16 copy",
    "caches": "KV caches",
    "buffers": "rollout buffers",
    "communication": "weights gathered, sums in transit",
    "activations": "activations and temporaries",
    "fragmentation": "allocator's fragmentation",
    "graphs": "CUDA graphs' pool",
    "store": "latent store on the GPU",
    "workspaces": "cuBLAS workspaces (assumed)",
}


def in_words(plan: Plan, short: bool = False) -> str:
    """A plan in a line; `short` is its settings alone."""
    train = plan.train
    kind = KINDS[plan.number] if plan.at_once > 1 else KINDS[plan.number].removesuffix("s")
    words = [f"{plan.at_once} {kind} at once", f"batches of {train.batch_size}"]
    if train.accumulate > 1:
        words.append(f"{train.accumulate} accumulated")
    if train.recompute:
        words.append("activations recomputed")
    said = ", ".join(words)
    return said if short else f"phase {plan.number} plans {size(plan.reserved)} of {size(plan.limit)}: {said}"


def change_of(train: TrainConfig, plan: Plan, ranks: int = 1) -> list[str]:
    """The settings that lead from `train` to a plan, as overrides; a micro-batch of the whole batch needs none.

    Both are of one rank of several, whose batch is a part of the one that is set.
    """
    words = [
        f"phase{plan.number}.{key}={str(value * ranks if key == 'batch_size' else value).lower()}"
        for key, value in plan.settings.items()
        if value != getattr(train, key) and (key != "micro_batch" or train.micro_batch)
    ]
    return [*words, "data.resident=ram"] if plan.in_ram else words


def table(plan: Plan, budget: Budget) -> str:
    """A line a component, in GiB."""
    lines = [f"{in_words(plan)} ({budget.name}): {'fits' if plan.fits else 'DOES NOT FIT'}"]
    lines += [f"  {LABELS[name]:<36}{_gib(taken):>7}" for name, taken in plan.rows.items() if taken]
    lines.append(f"  {'reserved by torch':<36}{_gib(plan.reserved):>7}")
    if plan.context:
        lines.append(f"  {'CUDA context (assumed), beside it':<36}{_gib(plan.context):>7}")
    return "\n".join(lines)


def numbers(plan: Plan) -> dict[str, Any]:
    """A plan for JSON, in GiB."""
    return {
        "phase": plan.number,
        "fits": plan.fits,
        "reserved_gb": plan.reserved / GIB,
        "limit_gb": plan.limit / GIB,
        "context_gb": plan.context / GIB,
        "components_gb": {name: taken / GIB for name, taken in plan.rows.items()},
        "at_once": plan.at_once,
        **plan.settings,
    }


def size(size_bytes: int) -> str:
    """A size in GiB, or in MiB where it is small."""
    return f"{size_bytes / GIB:.2f} GiB" if size_bytes >= GIB / 10 else f"{size_bytes / 2**20:.1f} MiB"


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.2f}"
