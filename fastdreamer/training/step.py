"""One step of a phase: its gradient, in as many micro-batches as the memory needs, and whether and how it counts.

And early stopping: the averages of the step with the least held-out loss, and when to stop looking for better ones.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fastdreamer.config import TrainConfig
from fastdreamer.device import Backend, random_states, set_random_states
from fastdreamer.errors import TooLarge
from fastdreamer.health.limits import section
from fastdreamer.latents.schedule import derived_seed
from fastdreamer.ranks.sharding import WHOLE, Shards, is_part
from fastdreamer.system.advice import command
from fastdreamer.system.ranges import span
from fastdreamer.training.optim import EMA, build_optimizers, learning_rate
from fastdreamer.training.phase import Phase


class Update:
    """Everything that a step of the loop holds and does on the device; a memory plan runs it on fake tensors.

    Attributes:
        is_whole: off while a step is being taken in. Where a step fails before, all is as it was after the last one.
    """

    def __init__(
        self, phase: Phase[Any], train: TrainConfig, backend: Backend, seed: int = 0, shards: Shards = WHOLE
    ) -> None:
        self.phase, self.train, self.shards = phase, train, shards
        named = [(name, p) for name, p in shards.named(phase.model) if p.requires_grad]
        self.parameters = [p for _, p in named]
        self.skips = Skips(backend.device)
        self.optimizers = build_optimizers(named, train, phase.rates, self.skips.found, shards)
        self.ema = EMA(phase.model, train.ema_decay)
        self.micro_batches = MicroBatches(phase, train, backend, seed, shards)
        self.is_whole = True

    def __call__(self, step: int) -> tuple[dict[str, Tensor], Tensor]:
        """Update number `step`: the figures of its last batch, and the gradient's norm before it was clipped.

        Where the loss or the norm is not finite, all stays as it was (see `Skips`).
        """
        batches = self.micro_batches.gradients(step)
        return batches[-1], self.apply(step, batches)

    def apply(self, step: int, batches: Sequence[Mapping[str, Tensor]] = ()) -> Tensor:
        """Takes the gradients in, and of `batches` the losses; returns the gradients' norm before they were clipped."""
        self.is_whole = False
        rate = learning_rate(self.train, step)
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = rate * group.get("rate", 1.0)
        with span("clip"):
            self.shards.receive()
            norm = self.shards.norm(self.parameters)
            nn.utils.clip_grads_with_norm_(self.parameters, self.train.clip_norm, norm)
            skipped = self.skips.judge(norm, [figures["loss"] for figures in batches])
        with span("optimizer"):
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self.shards.forget()
            for figures in batches:
                self.phase.finish(figures, skipped)
        with span("average"):
            self.ema.update(self.phase.model, step)
        self.is_whole = True
        return norm


class MicroBatches:
    """Runs a phase's batches forward and backward; where memory runs out, once, in micro-batches of half the size.

    Their gradients add up to the whole batch's, over the ranks too, so nothing is learned differently. Of several ranks
    each draws dropout from a seed of the step and its number: a resumed one needs no state of its own.

    Attributes:
        rows: the most rows of a batch that go through here.
        micro_batches: the number of micro-batches in which they go through now.
        is_halved: whether memory ran out.
    """

    def __init__(
        self, phase: Phase[Any], train: TrainConfig, backend: Backend, seed: int = 0, shards: Shards = WHOLE
    ) -> None:
        self.phase, self.train, self.backend, self.ranks, self.seed = phase, train, backend, backend.ranks, seed
        self.is_sharded = bool(shards)  # whose gradients FSDP2 adds up
        self.parameters = [p for p in phase.model.parameters() if p.requires_grad and not is_part(p)]
        self.rows = -(-train.batch_size // self.ranks.world)
        self.micro_batches = -(-self.rows // (train.micro_batch or self.rows))
        self.is_halved = False

    def gradients(self, step: int) -> list[dict[str, Tensor]]:
        """Adds the gradient of step `step` to the parameters; returns each batch's figures, and `loss` in them.

        Where it fails, all randomness is put back to where the step began.

        Raises:
            TooLarge: if memory runs out with halved micro-batches too.
        """
        before = {name: generator.get_state() for name, generator in self.phase.generators.items()}
        random = random_states(self.backend.device)
        self.ranks.at(f"in step {step + 1}")
        if not self.ranks.is_alone:
            torch.manual_seed(dropout_seed(self.seed, step, self.ranks.rank))
        try:
            with self.ranks.together(self.parameters), self._alone_in(step):
                batches = self._gradients(step)
            return self.ranks.add_up(self.parameters, batches)
        except torch.OutOfMemoryError as error:
            reason = str(error).partition("\n")[0]
        except Exception:
            self._rewind(before, random)
            raise
        # Outside the handler: the exception's frames held the tensors of the step.
        self._rewind(before, random)
        name = section(self.phase.number)
        if self.is_halved or self.micro_batches >= self.rows:
            raise TooLarge(
                f"{name}: out of memory at step {step + 1} with {self.micro_batches} micro-batches ({reason}): lower "
                f"{name}.batch_size{self._other_ways(name)}"
            )
        self.is_halved = True
        self.micro_batches = min(2 * self.micro_batches, self.rows)
        print(
            f"{name}: out of memory at step {step + 1}; going on with {self.micro_batches} micro-batches "
            "(the same gradient)",
            file=sys.stderr,
            flush=True,
        )
        self.phase.shrink(self.micro_batches * self.ranks.world)
        torch.cuda.empty_cache()
        return self.gradients(step)

    @contextmanager
    def _alone_in(self, step: int) -> Iterator[None]:
        """Memory that runs out between the collectives of a sharded step ends it: no agreement reaches the others."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            if not self.is_sharded:
                raise
            name, reason = section(self.phase.number), str(error).partition("\n")[0]
            raise TooLarge(
                f"{name}: out of memory at step {step + 1} on rank {self.ranks.rank} ({reason}), which ends a sharded "
                f"phase: lower {name}.micro_batch{self._other_ways(name)}"
            ) from None

    def _other_ways(self, name: str) -> str:
        return f" or set {name}.recompute=true; what fits is said by: {command('plan')}" if self.phase.number else ""

    def _rewind(self, before: Mapping[str, Tensor], random: Mapping[str, Tensor]) -> None:
        for parameter in self.phase.model.parameters():
            parameter.grad = None
        for name, generator in self.phase.generators.items():
            generator.set_state(before[name])
        set_random_states(random, self.backend.device)

    def _pieces(self, work: Any) -> Sequence[Any]:
        if self.phase.draws_own_rows:
            return work.split(self.micro_batches)
        return self.ranks.share(work.split(self.micro_batches * self.ranks.world))

    def _gradients(self, step: int) -> list[dict[str, Tensor]]:
        batches: list[dict[str, Tensor]] = []
        for _ in range(self.train.accumulate):
            with span("draw"):
                work = self.phase.draw()
            sums: dict[str, Tensor] = {}
            for piece in self._pieces(work):
                with span("forward"), self.backend.autocast():
                    loss, figures = self.phase.loss(piece, step)
                with span("backward"):
                    (loss / self.train.accumulate).backward()
                for name, value in (figures | {"loss": loss.detach()}).items():
                    sums[name] = sums[name] + value if name in sums else value
            batches.append(sums)
        return batches


def dropout_seed(seed: int, step: int, rank: int) -> int:
    """The seed from which a rank draws a step's dropout."""
    return derived_seed(seed, f"dropout of step {step} on rank {rank}")


class Skips:
    """Judges every step on its device. The host learns of it only when it asks, so that no step waits.

    What a step changes (weights, moments, running scales) stays as it was where `found` is 1; the average of the
    weights moves on towards the unchanged ones.

    Attributes:
        found: 1 where the newest step is left out, else 0; float32 (), the `found_inf` of torch's fused optimisers.
        counts: steps left out in all, and of the newest steps in a row; float32 (2,), exact up to 16 million.
    """

    def __init__(self, device: torch.device) -> None:
        self.found = torch.zeros((), device=device)
        self.counts = torch.zeros(2, device=device)
        self._in_a_row = self.counts[1]

    def judge(self, norm: Float[Tensor, ""], losses: Iterable[Float[Tensor, ""]] = ()) -> Bool[Tensor, ""]:
        """Whether a step with this gradient norm and these losses is left out; counts it."""
        total = sum(losses, norm)
        is_bad = (total - total).ne(0)  # inf - inf and nan - nan are nan; half the launches of isfinite
        self.found.copy_(is_bad)
        self.counts.add_(self.found)
        self._in_a_row.mul_(self.found)
        return is_bad

    def read(self) -> tuple[int, int]:
        """Skipped steps in all, and in a row. Waits for the device."""
        total, in_a_row = self.counts.tolist()
        return int(total), int(in_a_row)

    def restore(self, total: int, in_a_row: int) -> None:
        """Goes on from what a checkpoint says."""
        self.counts.copy_(torch.tensor([total, in_a_row]))
