"""Phase 1: the dynamics model learns to predict latents, by shortcut forcing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fastdreamer.config import Config
from fastdreamer.device import Backend
from fastdreamer.dynamics.forcing import Levels, draw_levels, draw_sampled_levels, forcing_loss, loss_shares
from fastdreamer.dynamics.linear import Transitions
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.latents.batch import EpisodeArrays, align
from fastdreamer.latents.loader import Loader
from fastdreamer.latents.schedule import Share, derived_seed
from fastdreamer.system.ranges import span
from fastdreamer.training.optim import RunningScale
from fastdreamer.training.phase import Phase, PhaseBatch, bounds


@dataclass(frozen=True)
class ForcingBatch(PhaseBatch):
    """A batch of crops with their noise; the first `levels.boots` rows are bootstrap."""

    clean: Float[Tensor, "b l n z"]
    noise: Float[Tensor, "b l n z"]
    levels: Levels
    shares: Float[Tensor, "b l"]  # shares of the loss
    present: Float[Tensor, "b l"]  # shares of the valid steps
    actions: Int[Tensor, "b l c k"]
    action_valid: Bool[Tensor, "b l c"]
    labelled: Bool[Tensor, " b"]
    has_boots: bool = False  # whether the whole batch has bootstrap rows

    def split(self, micro_batches: int) -> list[ForcingBatch]:
        """Split so that every micro-batch gets its part of the bootstrap rows."""
        if micro_batches <= 1:
            return [self]
        boots, ends = self.levels.boots, bounds(len(self.clean), micro_batches)
        both = zip(ends, pairwise(boots * i // len(ends) for i in range(len(ends) + 1)), strict=True)
        return [self._rows(a, z, boots + first - a, boots + last - z) for (first, last), (a, z) in both]

    def _rows(self, boot_first: int, boot_last: int, flow_first: int, flow_last: int) -> ForcingBatch:
        def take(x: Tensor) -> Tensor:
            return torch.cat([x[boot_first:boot_last], x[flow_first:flow_last]])

        names = ("clean", "noise", "shares", "present", "actions", "action_valid", "labelled")
        levels = Levels(take(self.levels.signal), take(self.levels.step_size), boot_last - boot_first)
        parts: dict[str, Any] = {name: take(getattr(self, name)) for name in names}
        return replace(self, levels=levels, **parts)


def bootstrap_share(config: Config) -> Share:
    """Choice of the bootstrap rows among the rows of all batches."""
    return Share(config.forcing.boot_fraction, derived_seed(config.seed, "bootstrap"))


class WorldModelPhase(Phase[ForcingBatch]):
    """Shortcut forcing on crops of `dynamics.window` steps, or fewer (see SamplingConfig).

    Attributes:
        first_boot: the first batch with bootstrap rows, unless given that after `forcing.boot_warmup`.
    """

    number = 1
    loader: Loader
    scale: RunningScale

    def __init__(
        self, config: Config, world: WorldModel, loader: Loader, backend: Backend, first_boot: int | None = None
    ) -> None:
        self.config, self.world, self.loader, self.backend = config, world, loader, backend
        self.scale = RunningScale(["dynamics"]).to(backend.device)
        self.model = nn.ModuleDict({"world": world, "scale": self.scale})
        self.frozen = {}
        self.noise = torch.Generator(backend.device).manual_seed(config.seed + 1)
        self.generators = {"data": loader, "noise": self.noise}
        self.boots = bootstrap_share(config)
        warmup = round(config.forcing.boot_warmup * config.phase1.steps) * config.phase1.accumulate
        self.first_boot = warmup if first_boot is None else first_boot
        self.steps = config.dynamics.window
        self.is_sharded = config.ranks.shard and not backend.ranks.is_alone
        self.transformer = world.transformer
        self._pass: Callable[..., Tensor] = world.forward
        if self.is_sharded:  # what gathers weights stays outside of the graphs
            for block in world.transformer.blocks:
                block.forward = backend.compiled(block.forward)
        else:
            self._pass = backend.compiled(world.forward)

    def draw(self) -> ForcingBatch:
        """Crops, noise and levels. From batch `first_boot` on the share of bootstrap rows is the configured one."""
        number = self.loader.position
        batch = self.loader.draw()
        order = torch.rand(len(batch.latents), generator=self.noise, device=self.backend.device).argsort()
        batch = batch.take(order)  # the first rows, which are bootstrap, are no special ones
        with span("normalise"):
            clean = self.world.normalise(batch.latents, batch.positions)
        rows, steps = clean.shape[:2]
        self.steps = steps
        boots = self.boots.before((number + 1) * rows) - self.boots.before(number * rows)
        forcing = self.config.forcing
        finest, is_grid = forcing.finest_steps, forcing.levels == "grid"
        if is_grid:
            levels = draw_levels(rows, steps, finest, boots if number >= self.first_boot else 0, self.noise)
        else:
            levels = draw_sampled_levels(rows, steps, forcing, self.noise)
        return ForcingBatch(
            clean=clean,
            noise=torch.randn(clean.shape, generator=self.noise, device=clean.device),
            levels=levels,
            shares=loss_shares(levels, finest, batch.target_valid, is_grid),
            present=batch.target_valid / batch.target_valid.sum().clamp(min=1),
            actions=batch.actions,
            action_valid=batch.action_valid,
            labelled=batch.labelled,
            has_boots=levels.boots > 0,
        )

    def loss(self, work: ForcingBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Shortcut forcing. The pass alone is compiled: the loss and the half-steps share its graphs."""
        losses = self._losses(work)
        figures = {f"loss/{name}": value.detach() for name, value in losses.items()}
        figures["boot_share"] = work.present[: work.levels.boots].sum()
        return losses["dynamics"] * self.scale.factors()["dynamics"], figures

    def figures(self, sums: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """`flow` and `boot` as means over their own steps; how long the crops are, since that changes the losses."""
        share = sums.pop("boot_share")
        if float(share):
            sums["loss/boot"] = sums["loss/boot"] / share
        else:
            del sums["loss/boot"]
        sums["loss/flow"] = sums["loss/flow"] / (1 - share)
        return sums | {"data/steps": torch.tensor(float(self.steps))}

    def _losses(self, work: ForcingBatch) -> dict[str, Tensor]:
        action = self.world.embed_actions(work.actions, work.action_valid, work.labelled)

        def predict(noisy: Tensor, signal: Tensor, step_size: Tensor, rows: slice) -> Tensor:
            return self._pass(noisy, signal, step_size, action[rows])

        finest = self.config.forcing.finest_steps
        losses = forcing_loss(predict, work.clean, work.noise, work.levels, finest, work.shares)
        if self.is_sharded and work.has_boots and not work.levels.boots:
            with torch.no_grad():  # other ranks' half-steps gather the weights from this one too
                for _ in range(2):
                    predict(work.clean[:1], work.levels.signal[:1], work.levels.step_size[:1], slice(0, 1))
        return losses


def fit_linear_start(world: WorldModel, episodes: Iterable[EpisodeArrays]) -> None:
    """Fits `world.linear` to episodes whose statistics the world model has; prints what it leaves."""
    assert world.linear is not None
    count = world.linear.fit(_transitions(world, episodes))
    left = float(world.linear.variance.mean())
    print(f"linear start: {count:,} transitions; it leaves {left:.3f} of the latents' variance", flush=True)


@torch.no_grad()
def _transitions(world: WorldModel, episodes: Iterable[EpisodeArrays]) -> Iterator[Transitions]:
    """Transitions of each episode between steps that are real; on the world model's device."""
    device = world.mean.device
    for episode in episodes:
        batch = align(episode, world.clock).to(device)
        real = batch.target_valid[0]
        both = real[1:] & real[:-1]
        latents = world.normalise(batch.latents.float(), batch.positions)[0].flatten(1)
        hot = world.hot_actions(batch.actions.long(), batch.action_valid & batch.labelled[:, None, None])[0]
        yield Transitions(latents[:-1][both], latents[1:][both], hot[1:][both])
