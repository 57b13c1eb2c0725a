"""An optimisation step of each phase on one small batch, against plain PyTorch on the same batch, weights and noise.

Then the graphs of the compiled steps (traced, not compiled): how many, where they break, whether any is made again; and
the training loop itself, from a phase's first batch to its checkpoint, against plain steps alone.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn import functional as F

from bench.gate.rows.base import GateRow, Place, RowWork, Wrong
from bench.gate.rows.recordings import counted_calls
from bench.naive import arms, objectives, rollout
from bench.naive import model as naive
from bench.naive.objectives import Trainer
from bench.phases import OneBatch, Optimisation, loader_of, made_up_phase
from bench.timing import Arm
from fastdreamer.config import TrainConfig
from fastdreamer.device import Backend
from fastdreamer.heads.agent import Agent
from fastdreamer.heads.mlp import MLP
from fastdreamer.training.cloning_phase import AgentPhase, CloningBatch, data_returns
from fastdreamer.training.imagination_phase import ImaginationPhase
from fastdreamer.training.loop import fit
from fastdreamer.training.phase import Phase

Step = Callable[[], Tensor]


def plain_heads(agent: Agent) -> Agent:
    """A copy whose trunks are torch's own layers with the norm written out."""
    agent = copy.deepcopy(agent)
    for module in agent.modules():
        if isinstance(net := getattr(module, "net", None), MLP):
            layers = []
            for layer in net.hidden:
                if isinstance(layer, nn.RMSNorm):
                    norm = naive.RMSNorm(layer.normalized_shape[0])
                    norm.load_state_dict(layer.state_dict())
                    layer = norm.to(layer.weight.device)
                layers.append(layer)
            module.net = nn.Sequential(*layers, net.out)
    return agent


def cloning_losses(phase: AgentPhase, agent: Agent, work: CloningBatch) -> dict[str, Tensor]:
    """The four terms of phase 2 in plain calls, from the same batch and shares."""
    batch, centres = work.batch, agent.value.centres
    mean, std = phase.world.mean[batch.positions], phase.world.std[batch.positions]
    features = ((batch.latents - mean[:, :, None]) / std[:, :, None]).flatten(2)
    logits, total = agent.policy(features), torch.zeros(features.shape[:2], device=features.device)
    for part, choice in zip(logits.split(agent.policy.sizes, -1), batch.next_actions.unbind(-1), strict=True):
        each = F.cross_entropy(part.flatten(0, 2), choice.flatten(), reduction="none").view(choice.shape)
        total = total + (each * work.labelled).sum(-1)
    agent.policy.choose(logits.detach()), agent.policy.entropy(logits.detach())
    reward, value = agent.reward(features), agent.value(features.detach())
    values = objectives.two_hot_decode(value, centres).detach()
    gamma, lambda_ = phase.gamma, phase.config.imagination.lambda_
    targets = F.pad(data_returns(batch, values, gamma, lambda_), (0, 1))
    objectives.two_hot_decode(reward.detach(), agent.reward.centres)
    going = F.binary_cross_entropy_with_logits(agent.continuation(features), batch.continues, reduction="none")
    return {
        "policy": (total * work.policy).sum(),
        "reward": (objectives.two_hot_loss(reward, batch.rewards, agent.reward.centres) * work.reward).sum(),
        "continue": (going * work.continuation).sum(),
        "value": (objectives.two_hot_loss(value, targets, centres) * work.value).sum(),
    }


class OneWork(AgentPhase):
    """Phase 2 that draws the same batch, with the same noise, for ever."""

    work_drawn: CloningBatch | None = None

    def draw(self) -> CloningBatch:
        """Return the one batch."""
        self.work_drawn = self.work_drawn or super().draw()
        return self.work_drawn


def phase_one(place: Place) -> tuple[Step, Step]:
    """Steps of phase 1: ours and the plain one."""
    config = place.config()
    work = arms.build(config, place.device)
    loader = OneBatch(loader_of(config, 1, place.device))
    phase = arms.OneWork(config, copy.deepcopy(work.world).train(), loader, place.backend, work.forcing)
    return _ours(phase, config.phase1, place, "loss/dynamics"), arms.naive_step(work, place.backend)


def phase_two(place: Place) -> tuple[Step, Step]:
    """Steps of phase 2, as of `phase_one`; both draw the same batch for ever."""
    config = place.config()
    phase = made_up_phase(config, 2, place.backend, OneBatch(loader_of(config, 2, place.device)), OneWork)
    assert isinstance(phase, OneWork)
    work, agent = phase.draw(), plain_heads(phase.agent)
    ours, trainer = _ours(phase, config.phase2, place), Trainer(agent, config.phase2, phase.terms)
    return ours, lambda: trainer.update(cloning_losses(phase, agent, work))


def phase_three(place: Place) -> tuple[Step, Step]:
    """Steps of phase 3, as of `phase_one`; both dream from the same starts, under their own noise after step one."""
    config = place.config()
    phase = made_up_phase(config, 3, place.backend, OneBatch(loader_of(config, 3, place.device)))
    assert isinstance(phase, ImaginationPhase)
    batch = phase.loader.draw()
    agent, prior = plain_heads(phase.agent), plain_heads(phase.agent).policy.requires_grad_(False)
    world = naive.NaiveWorldModel.copy_of(phase.world)
    trained = nn.ModuleDict({"policy": agent.policy, "value": agent.value})
    trainer = Trainer(trained, config.phase3, ("value",))
    generator = torch.Generator(place.device).manual_seed(config.seed + 3)

    def plain() -> Tensor:
        imagined = rollout.imagine(world, agent, batch, config.imagination.horizon, generator)
        policy, value = objectives.losses(imagined, agent, prior, config.imagination, phase.gamma)
        return trainer.update({"policy": policy, "value": value})

    return _ours(phase, config.phase3, place), plain


def _ours(phase: Phase[Any], train: TrainConfig, place: Place, figure: str = "loss") -> Step:
    """The loop's optimisation step."""
    optimisation = Optimisation(phase, train, place.backend)
    return lambda: optimisation.step()[figure]


def build(make: Callable[[Place], tuple[Step, Step]], place: Place) -> RowWork:
    """The row of a phase; its first two losses must agree."""

    def check() -> None:
        ours, plain = make(place)
        for number in range(2):
            a, b = float(ours()), float(plain())
            if not math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-4):
                raise Wrong(f"the loss of step {number} is {a:.6g}, the reference's {b:.6g}")

    ours, plain = make(place)
    return RowWork.of_calls(place, check, ours, plain, unit="steps")


ROWS = tuple(
    GateRow(f"phase {number} step", partial(build, make))
    for number, make in ((1, phase_one), (2, phase_two), (3, phase_three))
)


TRACED = 4
"""The second may make graphs (gradients and optimisers' states are there then), later ones may not."""


class Tracing(Backend):
    """A backend whose functions are traced by Dynamo and run as they are; a break is counted, not an error."""

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compile as Backend does, but for the compiler behind it."""
        return torch.compile(function, backend="eager", dynamic=False)


def graphs(number: int, place: Place) -> RowWork:
    """A phase's compiled functions over a few steps."""

    def step_of(backend: Backend) -> Optimisation:
        torch._dynamo.reset()
        config = place.config("dynamics.dim=16")
        return Optimisation(made_up_phase(config, number, backend), config.phase(number), backend)

    def check() -> None:
        one, other = (step_of(kind(place.device, "fp32", True)) for kind in (Tracing, Eager))
        for step in range(2):
            ours, plain = float(one.step()["loss"]), float(other.step()["loss"])
            if abs(ours - plain) > 1e-4 * max(1.0, abs(plain)):
                raise Wrong(f"the loss of step {step} is {ours:.6g}, eager {plain:.6g}")

    def counts() -> dict[str, int]:
        optimisation = step_of(Tracing(place.device, "fp32", True))
        counters.clear()
        made = []
        for _ in range(TRACED):
            optimisation.step()
            made.append(counters["stats"]["unique_graphs"])
        breaks = sum(counters["graph_break"].values())
        return {"graphs": made[-1], "graph_breaks": breaks, "recompiles": made[-1] - made[1]}

    return RowWork(check=check, counts=counts)


class Eager(Backend):
    """A backend that says it compiles, so that everything is built as for compiling, and does not."""

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function itself."""
        return function


GRAPHS = tuple(GateRow(f"phase {number} graphs", partial(graphs, number)) for number in (1, 2, 3))


STEPS = 6


def run(number: int, place: Place) -> RowWork:
    """`fit` for a few steps, logged at the first and the last, saved once."""
    keys = f"phase{number}={{steps: {STEPS}, log_every: 1000, checkpoint_every: 1000}}"
    config = place.config(keys)
    train, make = config.phase(number), {1: phase_one, 2: phase_two, 3: phase_three}[number]

    def fresh() -> Phase[Any]:
        return made_up_phase(config, number, place.backend)

    def ours(phase: Phase[Any]) -> dict[str, float]:
        shutil.rmtree(place.folder / "run", ignore_errors=True)
        with contextlib.redirect_stderr(io.StringIO()):
            return fit(phase, config, train, place.folder / "run", place.backend, "made up")

    def plain(_: object) -> None:
        for _ in range(STEPS):
            step()

    def check() -> None:
        figures = ours(fresh())
        if not all(math.isfinite(value) for value in figures.values()):
            raise Wrong(f"figures are no numbers: {figures}")

    def counts() -> dict[str, int]:
        with counted_calls("os.fsync") as synced:
            ours(fresh())
        files = [file for file in (place.folder / "run").rglob("*") if file.is_file()]
        tensors = sum(file.stat().st_size for file in files if file.suffix == ".safetensors")
        return {"fsyncs": synced[0], "files": sum("tfevents" not in file.name for file in files), "bytes": tensors}

    step = make(place)[1]
    return RowWork(check, counts, Arm(ours, fresh), Arm(plain), STEPS, "steps")


LOOPS = tuple(GateRow(f"train phase {number}", partial(run, number), is_short=False) for number in (1, 2, 3))
