"""A latent store of made-up episodes: enough to train, test and time every phase with torch alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fastdreamer.latents.splits import assign_splits
from fastdreamer.latents.store import FORMAT, SYNTHETIC, Episode, described, write_episode, write_manifest
from fastdreamer.recordings.actions import ActionSpace
from fastdreamer.shapes import CHANNELS, TOKENS, LatentClock


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
        terminals = torch.zeros(frames - 1, dtype=torch.bool)
        if frames > 1:
            terminals[-1] = i % 2 == 0
        episode = Episode(
            name=name,
            split=splits[name],
            latents=torch.stack(latents).half(),
            actions=actions.to(torch.uint8),
            rewards=(torch.arange(frames - 1) % 5 == 4).float(),
            terminals=terminals,
            valid=torch.ones(frames, dtype=torch.bool),
        )
        entries[name] = write_episode(path, episode, source="synthetic")
    key = {"tokenizer": SYNTHETIC, "frames_per_latent": c, "window": clock.window, "actions": space.fingerprint}
    write_manifest(path, {"format": FORMAT, "key": key, **described(space), "episodes": entries, "skipped": {}})
