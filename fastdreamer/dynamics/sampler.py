"""Sampling the world model: K steps from noise to a clean latent, a step of time at a time, on the ring cache.

Source: Dreamer 4 (arXiv:2509.24527), section 3.2 (shortcut sampling, context noised to tau_ctx).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from fastdreamer.data.clips import Batch
from fastdreamer.dynamics.cache import RingCache
from fastdreamer.dynamics.forcing import context_index, mix
from fastdreamer.dynamics.world_model import WorldModel


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
    latents: Float[Tensor, "b n z"],
    action: Float[Tensor, "b d"],
    noise: Float[Tensor, "b n z"],
    agents: Float[Tensor, "b a d"] | None = None,
) -> Float[Tensor, "b a d"]:
    """Writes a finished (or real) step to the cache, noised to the context's signal level; returns agent read-outs."""
    index = context_index(model.forcing)
    signal = torch.full(latents.shape[:1], index, device=latents.device)[:, None]
    noisy = mix(latents, noise, torch.tensor(index / model.forcing.finest_steps, device=latents.device))
    step_size = torch.zeros_like(signal)
    _, read = model.read(noisy[:, None], signal, step_size, action[:, None], agents, cache)
    cache.advance()
    return read[:, 0]


def sample_next(
    model: WorldModel,
    cache: RingCache,
    action: Float[Tensor, "b d"],
    noise: Float[Tensor, "b n z"],
    agents: Float[Tensor, "b a d"] | None = None,
) -> Float[Tensor, "b n z"]:
    """Samples the next step given what the cache holds and the action that leads into it. Does not commit it."""
    steps, finest = model.forcing.sample_steps, model.forcing.finest_steps
    exponent = (finest // steps).bit_length() - 1
    size = torch.full((len(noise), 1), exponent, device=noise.device)

    def predict(z: Tensor, i: int) -> Tensor:
        signal = torch.full_like(size, i * (finest // steps))
        return model.read(z[:, None], signal, size, action[:, None], agents, cache)[0][:, 0]

    return integrate(predict, noise, steps)


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
        commit(model, cache, latents, action[:, t], noise[1])
        steps.append(latents)
    return torch.stack(steps, 1)
