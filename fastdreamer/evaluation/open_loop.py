"""Open loop on held-out episodes: error by horizon, beside copying, and two controls that ask whether actions matter.

Errors are mean squared errors of normalised latents, so 1 is about what predicting the mean latent would cost.
Controls are compared like with like: the same crops, the same noise, the same estimator (the mean of all samples)
as under the real actions; only the actions of the imagined steps differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from fastdreamer.config import EvaluationConfig
from fastdreamer.dynamics.sampler import open_loop
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.errors import UserError
from fastdreamer.evaluation.bootstrap import Interval, ratio_interval
from fastdreamer.latents.batch import Batch, align, crop, stack
from fastdreamer.shapes import LatentClock
from fastdreamer.system.progress import track

SEQUENCES = 64  # imagined at a time, samples counted
FIRST = slice(0, 1)  # imagined step
ACTIONS = ("real", "shuffled_actions", "noop_actions")

Imagine = Callable[[Batch, torch.Generator, Tensor | None], Tensor]
"""(batch, generator, replacing actions or None) -> imagined normalised latents (b, l, n, z); as dynamics.open_loop."""


def imagining(
    world: WorldModel, context: int, precision: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> Imagine:
    """A world model's open loop after `context` real steps."""

    def imagine(crops: Batch, generator: torch.Generator, actions: Tensor | None) -> Tensor:
        with precision():
            return open_loop(world, crops, context, generator, actions)

    return imagine


@dataclass(frozen=True)
class Crop:
    """The place of a crop: episode name, first latent step."""

    episode: str
    start: int


def choose_crops(
    episodes: Sequence[Any], clock: LatentClock, window: int, context: int, count: int, seed: int
) -> tuple[list[Crop], Batch]:
    """Choose up to `count` different held-out windows in which every imagined step has a target and its actions.

    Raises:
        UserError: if there is none.
    """
    aligned = {episode.name: align(episode, clock) for episode in episodes}
    candidates = []
    for name, batch in aligned.items():
        usable = (batch.target_valid & batch.action_valid.all(-1))[0].tolist()
        for start in range(len(usable) - window + 1):
            if all(usable[start + context : start + window]):
                candidates.append(Crop(name, start))
    if not candidates:
        raise UserError(
            f"none of {len(aligned)} held-out episodes has a whole window of {window} latent steps to imagine; "
            "record longer episodes, raise data.held_out or lower dynamics.window"
        )
    picks = np.random.default_rng(seed).permutation(len(candidates))[:count]
    chosen = [candidates[i] for i in sorted(picks)]
    return chosen, stack([crop(aligned[c.episode], c.start, window) for c in chosen])


def shuffle_actions(batch: Batch, context: int, seed: int) -> Tensor:
    """The batch's actions with the imagined steps' chunks dealt out anew over crops and steps: plausible but wrong.

    The permutation is one cycle, so no chunk stays where it was. Chunks into the context are real.
    """
    actions = batch.actions.clone()
    future = actions[:, context:].flatten(0, 1)
    order = torch.randperm(len(future), generator=torch.Generator().manual_seed(seed)).to(future.device)
    shuffled = torch.empty_like(future)
    shuffled[order] = future[order.roll(1)]
    actions[:, context:] = shuffled.view_as(actions[:, context:])
    return actions


def noop_actions(batch: Batch, context: int, noop: Sequence[int]) -> Tensor:
    """The batch's actions with every component of the imagined steps set to doing nothing."""
    actions = batch.actions.clone()
    actions[:, context:] = torch.tensor(list(noop), dtype=actions.dtype, device=actions.device)
    return actions


@dataclass(frozen=True)
class Errors:
    """Squared errors a crop and horizon, (crops, horizons): of one sample on average, of the samples' mean."""

    one_sample: Float[ndarray, "b s"]
    mean_of_samples: Float[ndarray, "b s"]


def errors_of(
    imagine: Imagine,
    batch: Batch,
    truth: Float[Tensor, "b l n z"],
    actions: Tensor | None,
    context: int,
    samples: int,
    seed: int,
    advance: Callable[[int], None] = lambda crops: None,
) -> Errors:
    """Imagine every crop `samples` times; the noise depends on `seed` and the crop's place alone, not on `actions`."""
    at_a_time = max(1, SEQUENCES // samples)
    one, mean = [], []
    for start in range(0, len(truth), at_a_time):
        rows = torch.arange(start, min(start + at_a_time, len(truth)), device=truth.device)
        repeated = rows.repeat_interleave(samples)
        generator = torch.Generator().manual_seed(seed + start)  # on the CPU: the same noise on every device
        replacing = None if actions is None else actions[repeated]
        imagined = imagine(batch.take(repeated), generator, replacing)[:, context:].float()
        imagined = imagined.unflatten(0, (len(rows), samples))
        target = truth[rows, context:]
        one.append((imagined - target[:, None]).square().mean(dim=(1, 3, 4)).cpu())
        mean.append((imagined.mean(1) - target).square().mean(dim=(2, 3)).cpu())
        advance(len(rows))
    return Errors(torch.cat(one).double().numpy(), torch.cat(mean).double().numpy())


def copy_errors(truth: Float[Tensor, "b l n z"], context: int) -> Float[ndarray, "b s"]:
    """What saying that nothing changes after the context would cost."""
    return (truth[:, context - 1 : context] - truth[:, context:]).square().mean(dim=(2, 3)).double().cpu().numpy()


def times_the_error(other: Float[ndarray, "b s"], real: Float[ndarray, "b s"], resamples: int, seed: int) -> Interval:
    """How many times `real` an error is (shuffled over real actions, the model over copying), over all steps."""
    return ratio_interval(other.mean(1), real.mean(1), resamples, seed)


@torch.no_grad()
def evaluate_world_model(
    imagine: Imagine,
    batch: Batch,
    truth: Float[Tensor, "b l n z"],
    noop: Sequence[int],
    settings: EvaluationConfig,
) -> tuple[dict[str, Any], Float[ndarray, " b"]]:
    """World-model evaluation of crops of held-out play; `truth` are their own latents, normalised.

    Returns:
        The contents of world_model.json, and each crop's error (mean of samples, whole window) to choose pictures by.
    """
    context, samples, seed = settings.context, settings.samples, settings.seed
    crops, horizons = truth.shape[0], truth.shape[1] - context
    replacing = {
        "real": None,
        "shuffled_actions": shuffle_actions(batch, context, seed),
        "noop_actions": noop_actions(batch, context, noop),
    }
    with track("imagine held-out play", total=crops * len(ACTIONS), unit="crops") as bar:
        errors = {
            name: errors_of(imagine, batch, truth, replacing[name], context, samples, seed, bar.advance)
            for name in ACTIONS
        }
    copy = copy_errors(truth, context)
    curves = {
        "one_sample": errors["real"].one_sample,
        f"mean_of_{samples}": errors["real"].mean_of_samples,
        "copy_last": copy,
        "shuffled_actions": errors["shuffled_actions"].mean_of_samples,
        "noop_actions": errors["noop_actions"].mean_of_samples,
    }
    real, one = curves[f"mean_of_{samples}"], curves["one_sample"]

    def ratio(top: ndarray, bottom: ndarray, steps: slice = slice(None)) -> dict[str, float]:
        return times_the_error(top[:, steps], bottom[:, steps], settings.bootstrap, seed).to_dict()

    result: dict[str, Any] = {"horizons": list(range(1, horizons + 1))}
    result |= {name: [float(value) for value in curve.mean(0)] for name, curve in curves.items()}
    result |= {
        "average": {name: float(curve.mean()) for name, curve in curves.items()},
        "ratios": {
            "shuffled_over_real": ratio(curves["shuffled_actions"], real),
            "noop_over_real": ratio(curves["noop_actions"], real),
            f"mean_of_{samples}_over_copy": ratio(real, copy),
            "one_sample_over_copy": ratio(one, copy),
        },
        "one_sample_over_copy": [ratio(one, copy, slice(h, h + 1)) for h in range(horizons)],
        "one_step": {
            "error": float(one[:, 0].mean()),
            "copy": float(copy[:, 0].mean()),
            "over_copy": ratio(one, copy, FIRST),
            "shuffled_over_real": ratio(errors["shuffled_actions"].one_sample, one, FIRST),
        },
        "crops": crops,
        "context": context,
        "samples": samples,
        "beats_copy_at_every_horizon": bool((real.mean(0) < copy.mean(0)).all()),
        "one_sample_beats_copy_at_every_horizon": bool((one.mean(0) < copy.mean(0)).all()),
        "beats_copy_on_average": bool(real.mean() < copy.mean()),
    }
    return result, real.mean(1)
