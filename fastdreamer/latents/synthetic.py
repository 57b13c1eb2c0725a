"""A latent store of made-up episodes: enough to train, test and time every phase with torch alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastdreamer.latents.episode import write_episode
from fastdreamer.latents.manifest import FORMAT, described, write_manifest
from fastdreamer.latents.splits import assign_splits
from fastdreamer.latents.store import SYNTHETIC, Episode
from fastdreamer.recordings.actions import ActionSpace
from fastdreamer.shapes import CHANNELS, TOKENS, LatentClock


def made_up_episode(name: str, split: str, latents: Tensor, actions: Tensor, ends: bool) -> Episode:
    """An episode that rewards every fifth transition."""
    count = len(actions)
    return Episode(
        name=name,
        split=split,
        latents=latents.half(),
        actions=actions.byte(),
        rewards=(torch.arange(count) % 5 == 4).float(),
        terminals=(torch.arange(count) == count - 1) & ends,
        valid=torch.ones(1 + count, dtype=torch.bool),
    )


def write_synthetic_store(
    path: Path | str, clock: LatentClock, space: ActionSpace, episodes: int, steps: int, seed: int
) -> None:
    """Write the store to `path`.

    Latents are a decaying walk that the actions push, so that there is something to learn; every fifth transition
    carries a reward and every second episode ends in a terminal.
    """
    path = Path(path)
    generator = torch.Generator().manual_seed(seed)
    c = clock.frames_per_latent
    pushes = [torch.randn(size, TOKENS, CHANNELS, generator=generator) for size in space.sizes]
    names = [f"synthetic-{i:03d}" for i in range(episodes)]
    splits = assign_splits(names, 0.1)
    entries: dict[str, Any] = {}
    for i, name in enumerate(names):
        frames = 1 + (steps - 1) * c
        actions = torch.stack([torch.randint(s, (frames - 1,), generator=generator) for s in space.sizes], 1)
        state, latents = torch.randn(TOKENS, CHANNELS, generator=generator), []
        for step in range(steps):
            latents.append(state)
            chunk = actions[step * c : (step + 1) * c]
            push = sum((table[chunk[:, k]].sum(0) for k, table in enumerate(pushes)), torch.zeros_like(state))
            noise = torch.randn(state.shape, generator=generator)
            state = 0.9 * state + 0.3 * push / (c * len(pushes)) ** 0.5 + 0.1 * noise
        episode = made_up_episode(name, splits[name], torch.stack(latents), actions, ends=i % 2 == 0)
        entries[name] = write_episode(path, episode, source="synthetic")
    key = {"tokenizer": SYNTHETIC, "frames_per_latent": c, "window": clock.window, "actions": space.fingerprint}
    write_manifest(path, {"format": FORMAT, "key": key, **described(space), "episodes": entries, "skipped": {}})
