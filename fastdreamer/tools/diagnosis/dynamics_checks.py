"""Does the world model use the actions, are they where they belong, and does it see further than a copy?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from fastdreamer.dynamics.forcing import context_index, mix
from fastdreamer.dynamics.sampler import open_loop
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.errors import UserError
from fastdreamer.evaluation.bootstrap import Interval
from fastdreamer.evaluation.open_loop import (
    Crop,
    choose_crops,
    copy_errors,
    errors_of,
    imagining,
    noop_actions,
    shuffle_actions,
    times_the_error,
)
from fastdreamer.health.checks import Check, check
from fastdreamer.latents.batch import Batch
from fastdreamer.system.advice import command
from fastdreamer.tools.diagnosis.loaded_phase import LoadedPhase

CROPS, SAMPLES, RESAMPLES = 24, 2, 500


def checks(loaded: LoadedPhase, pictures: Path) -> Iterator[Check]:
    """The checks on held-out crops, or on training ones where no held-out window is long enough."""
    context = loaded.config.evaluation.context
    try:
        crops, batch = _crops(loaded, context)
    except UserError as error:
        yield Check("actions", "controls", " ".join(str(error).split()), "measured on whole windows", "not measured")
        return
    batch = batch.to(loaded.backend.device)
    with torch.no_grad():
        truth = loaded.world.normalise(batch.latents, batch.positions)
        replacing = {"real": None, **replacements(batch, context, loaded.store.space.noop)}
        if not batch.labelled.all():
            replacing = {"real": None}
            yield Check("actions", "controls", "windows without action labels", "labelled windows", "not measured")
        imagine = imagining(loaded.world, context, loaded.backend.autocast)
        errors = {
            name: errors_of(imagine, batch, truth, actions, context, SAMPLES, 0).mean_of_samples
            for name, actions in replacing.items()
        }
    real = errors.pop("real")
    for name, found in errors.items():
        yield control(name, times_the_error(found, real, RESAMPLES, 0))
    yield drift(real, copy_errors(truth, context))
    with torch.no_grad():
        yield one_step(next_step_errors(loaded.world, batch))
    draw(loaded, crops, batch, truth, real, pictures)


def replacements(batch: Batch, context: int, noop: tuple[int, ...]) -> dict[str, Tensor]:
    """Actions that should predict worse than the real ones."""
    later, earlier = batch.actions.clone(), batch.actions.clone()
    later[:, context:] = batch.actions[:, context - 1 : -1]
    earlier[:, context:-1] = batch.actions[:, context + 1 :]
    return {
        "shuffled actions": shuffle_actions(batch, context, 0),
        "no-op actions": noop_actions(batch, context, noop),
        "actions a step late": later,
        "actions a step early": earlier,
    }


def control(name: str, ratio: Interval) -> Check:
    """An error under other actions, over that under the real ones."""
    is_shift = "step" in name
    remedy = (
        f"actions and frames are not aligned: check with {command('inspect')}, and encode again with "
        f"{command('encode', replace=True)}"
        if is_shift
        else "the model does not use the actions: train phase 1 longer, or check whose actions the recordings hold"
    )
    worse = ratio.high < 1 if is_shift else ratio.high <= 1
    return check(
        "actions", name, f"{ratio.mean:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] times the error", "above 1", remedy,
        of=(ratio.mean, ratio.low, ratio.high), red=worse, amber=ratio.mean < 1 if is_shift else ratio.low <= 1,
    )  # fmt: skip


def drift(real: Float[ndarray, "b s"], copy: Float[ndarray, "b s"]) -> Check:
    """The error at the horizon against that of copying the last real latent."""
    model, last = float(real[:, -1].mean()), float(copy[:, -1].mean())
    return check(
        "imagination", "drift", f"error {model:.3f} after {real.shape[1]} steps, copying {last:.3f}", "below copying",
        "imagination drifts: train phase 1 longer, raise dynamics.dim, or lower imagination.horizon",
        red=not model < last,
    )  # fmt: skip


def one_step(errors: Mapping[str, tuple[float, float, float]]) -> Check:
    """Check one step's mean and sample: the error, that with the last action shuffled, and that of copying."""
    others = {name: "" if math.isinf(wrong) else f", shuffled {wrong:.3f}" for name, (_, wrong, _) in errors.items()}
    found = "; ".join(f"{name} {e:.3f}{others[name]}" for name, (e, _, _) in errors.items())
    error, wrong, copying = errors["mean"]
    return check(
        "imagination", "one step", f"error of the {found}; copying {copying:.3f}", "the mean below both others",
        "a single step is not predicted: train phase 1 longer, or raise dynamics.dim",
        of=(error, copying) if math.isinf(wrong) else (error, wrong, copying), amber=not error < min(wrong, copying),
    )  # fmt: skip


def next_step_errors(world: WorldModel, batch: Batch) -> dict[str, tuple[float, float, float]]:
    """Errors of the last step after a real context: under its action, under another window's, and of copying.

    `mean` is the conditional mean: one pass from signal level 0 at the finest step size. `sample` is the step as
    imagination takes it. Where all windows have one action nothing is shuffled, and that error is infinite.
    Compare means with means: a sample carries the variance of what can come twice.
    """
    clean = world.normalise(batch.latents, batch.positions)
    last, generator = clean[:, -1], torch.Generator().manual_seed(5)
    noise = torch.randn(clean.shape, generator=generator).to(clean.device)
    signal = torch.full(clean.shape[:2], context_index(world.forcing), device=clean.device)
    signal[:, -1] = 0
    noisy = mix(clean, noise, (signal / world.forcing.finest_steps)[..., None, None])
    shuffled, order = batch.actions.clone(), torch.randperm(len(batch.actions), generator=generator)
    shuffled[order, -1] = batch.actions[order.roll(1), -1]  # no window keeps its own
    is_shuffled = not torch.equal(shuffled, batch.actions)

    def mean(actions: Tensor) -> Tensor:
        token = world.embed_actions(actions, batch.action_valid, batch.labelled)
        return world(noisy, signal, torch.zeros_like(signal), token)

    def sample(actions: Tensor) -> Tensor:
        return open_loop(world, batch, clean.shape[1] - 1, torch.Generator().manual_seed(5), actions)

    def error(step: Tensor) -> float:
        return float((step - last).square().mean())

    def errors(predict: Callable[[Tensor], Tensor]) -> tuple[float, float, float]:
        right = error(predict(batch.actions)[:, -1])
        return right, error(predict(shuffled)[:, -1]) if is_shuffled else math.inf, error(clean[:, -2])

    return {"mean": errors(mean), "sample": errors(sample)}


def draw(
    loaded: LoadedPhase, crops: list[Crop], batch: Batch, truth: Tensor, real: Float[ndarray, "b s"], to: Path
) -> None:
    """A filmstrip of the crop of median error, real above imagined, where a pixel decoder is trained."""
    from fastdreamer.evaluation.pictures import RealFrames, write_filmstrips
    from fastdreamer.training.pixel_decoder import load_decoder

    decoder, context = load_decoder(loaded.run, loaded.config, loaded.backend.device), loaded.config.evaluation.context
    if decoder is None:
        return
    write_filmstrips(
        to, crops, batch, real.mean(1), 1, truth, imagining(loaded.world, context), decoder,
        RealFrames(loaded.config, loaded.run), loaded.store.clock, context, 0,
    )  # fmt: skip


def _crops(loaded: LoadedPhase, context: int) -> tuple[list[Crop], Batch]:
    store, window = loaded.store, loaded.config.dynamics.window
    try:
        return choose_crops(store.split("held_out"), store.clock, window, context, CROPS, 0)
    except UserError:
        return choose_crops(store.split("train"), store.clock, window, context, CROPS, 0)
