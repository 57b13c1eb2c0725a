"""Sampling the world model: K steps from noise to a clean latent, a step of time at a time, on the ring cache.

Source: Dreamer 4 (arXiv:2509.24527), section 3.2 (shortcut sampling, context noised to tau_ctx).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from fastdreamer.dynamics.cache import RingCache
from fastdreamer.dynamics.forcing import context_index, mix
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.latents.batch import Batch


def integrate(predict: Callable[[Tensor, int], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Follows z <- z + d (f - z) / (1 - tau) for `steps` steps of d = 1/steps; the last one returns f exactly.

    Args:
        predict: (z at tau = i / steps, i) -> clean prediction f.
        noise: the starting point, N(0, I).
        steps: K.
    """
    z = noise
    for i in range(steps):
        clean = predict(z, i)
        z = clean if i == steps - 1 else z + (clean - z) / (steps - i)
    return z


def commit(
    model: WorldModel,
    cache: RingCache,
    latents: Float[Tensor, "b l n z"],
    action: Float[Tensor, "b l d"],
    noise: Float[Tensor, "b l n z"],
    agents: Float[Tensor, "b a d"] | None = None,
) -> Float[Tensor, "b l a d"] | None:
    """Writes finished (or real) steps to the cache, noised to the context's signal level; returns agent read-outs."""
    signal, noisy = as_context(model, latents, noise)
    silent = noisy.shape[1] if agents is None else 0
    _, read = model.read(noisy, signal, torch.zeros_like(signal), action, agents, cache, silent)
    cache.advance(noisy, signal)
    return read


def sample_next(
    model: WorldModel,
    cache: RingCache,
    action: Float[Tensor, "b d"],
    noise: Float[Tensor, "b n z"],
) -> Float[Tensor, "b n z"]:
    """Samples the next step given what the cache holds and the action that leads into it. Does not commit it.

    Agent tokens have no part in it: nothing reads them, and they read the step when it is committed.
    """

    def predict(z: Tensor, i: int) -> Tensor:
        signal, size = _denoising(model, z, i)
        return model.read(z[:, None], signal, size, action[:, None], None, cache)[0][:, 0]

    return integrate(predict, noise, model.forcing.sample_steps)


def commit_and_sample_next(
    model: WorldModel,
    cache: RingCache,
    latents: Float[Tensor, "b n z"],
    action: Float[Tensor, "b d"],
    context_noise: Float[Tensor, "b n z"],
    next_action: Float[Tensor, "b d"],
    noise: Float[Tensor, "b n z"],
) -> Float[Tensor, "b n z"]:
    """`commit` and `sample_next` in K passes instead of K + 1: the first denoising pass carries the committed step.

    The same function, because a step reads nothing of the step after it. For a caller that reads the latents alone:
    what agent tokens read at a step comes with its commit, too late to choose the action of the next one.

    Args:
        model: the world model.
        cache: made for 2 steps at once.
        latents: the finished step.
        action: the one that led into it.
        context_noise: noises it to the context's signal level.
        next_action: the one that leads into the sampled step.
        noise: the noise that sampling starts at.
    """

    def predict(z: Tensor, i: int) -> Tensor:
        signal, size = _denoising(model, z, i)
        if i:
            return model.read(z[:, None], signal, size, next_action[:, None], None, cache)[0][:, 0]
        finished_signal, finished = as_context(model, latents[:, None], context_noise[:, None])
        both = (
            torch.cat([finished, z[:, None]], 1),
            torch.cat([finished_signal, signal], 1),
            torch.cat([torch.zeros_like(size), size], 1),
            torch.stack([action, next_action], 1),
        )
        clean = model.read(*both, None, cache, 1)[0][:, 0]
        cache.advance(finished, finished_signal)
        return clean

    return integrate(predict, noise, model.forcing.sample_steps)


def as_context(model: WorldModel, latents: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Signal index (b, l) and noised latents (b, l, n, z) of steps that others are to see as their context."""
    index = context_index(model.forcing)
    signal = torch.full(latents.shape[:2], index, device=latents.device)
    return signal, mix(latents, noise, index / model.forcing.finest_steps)


def _denoising(model: WorldModel, z: Tensor, i: int) -> tuple[Tensor, Tensor]:
    """Signal and step-size index (b, 1) of denoising pass i; a model without bootstrap knows the finest size alone."""
    stride = model.forcing.finest_steps // model.forcing.sample_steps
    signal = torch.full((len(z), 1), i * stride, device=z.device)
    return signal, torch.full_like(signal, stride.bit_length() - 1 if model.forcing.boot_fraction else 0)


@torch.no_grad()
def open_loop(
    model: WorldModel,
    batch: Batch,
    context: int,
    generator: torch.Generator,
    actions: Tensor | None = None,
) -> Float[Tensor, "b l n z"]:
    """Normalised latents: the batch's own for `context` steps, then imagined under the recorded actions.

    Args:
        model: the world model.
        batch: crops on the model's device.
        context: real steps at the start, at least 1.
        generator: CPU generator of all noise; equal seeds give equal noise whatever the actions.
        actions: replaces the batch's actions (same shape), for controls.
    """
    real = model.normalise(batch.latents, batch.positions)
    taken = batch.actions if actions is None else actions
    action = model.embed_actions(taken, batch.action_valid, batch.labelled)
    cache = model.new_cache(len(real))
    steps = []
    for t in range(real.shape[1]):
        noise = torch.randn(2, *real[:, 0].shape, generator=generator).to(real.device)
        latents = real[:, t] if t < context else sample_next(model, cache, action[:, t], noise[0])
        commit(model, cache, latents[:, None], action[:, t : t + 1], noise[1][:, None])
        steps.append(latents)
    return torch.stack(steps, 1)
