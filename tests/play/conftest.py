"""Worlds to play in that were never trained, but are far from their zero start; and real Crafter beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from fastdreamer.config import Config, load_config
from fastdreamer.device import Backend
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.heads.agent import Agent
from fastdreamer.play.loaded import Loaded
from fastdreamer.recordings.find import find_recordings
from fastdreamer.tokenizer.frozen import FrozenTokenizer
from fastdreamer.tokenizer.pixels import PixelDecoder
from play.browsers import server, stand_ins
from play.browsing import chromium, shot, small_run

__all__ = ["chromium", "server", "shot", "small_run", "stand_ins"]  # fixtures
SINGLE = (
    "tokenizer={frames_per_latent: 1, window: 1, encoder_channels: [8, 8, 8], decoder_channels: [8, 8, 8]}",
    "dynamics={dim: 16, layers: 2, heads: 2, kv_heads: 1, time_every: 2, registers: 1, window: 4, context: 3}",
    "evaluation={context: 2}",
    "imagination={horizon: 2, start_context: 1}",
    "heads={history: 0.5, reward_reads: action}",
)
"""One frame a latent step."""
CHUNKED = (
    "tokenizer={frames_per_latent: 4, window: 9, encoder_channels: [8, 8, 8], decoder_channels: [8, 8, 8]}",
    *SINGLE[1:],
)
"""Four frames a latent step, two steps a window."""
TOKENS = ("heads={readout: agent_tokens, history: 0.0}", "dynamics.agent_tokens=2")
FAST = ("heads.hidden=16", "heads.layers=1", "device=cpu", "precision=fp32", "compile=off")


def made(*overrides: str, recordings: Path | None = None, decodes: bool = True, seed: int = 0) -> Loaded:
    """A world of the debug preset, smaller still."""
    config = load_config("debug", [*FAST, *overrides])
    return assembled(config, recordings, decodes, seed)


def assembled(config: Config, recordings: Path | None, decodes: bool, seed: int) -> Loaded:
    from fastdreamer.recordings.actions import action_space

    sizes = action_space(config.data.env).sizes
    torch.manual_seed(seed)
    world = WorldModel.build(config, sizes)
    nn.init.normal_(world.readout.weight, std=config.dynamics.dim**-0.5)
    for block in world.transformer.blocks:
        for layer in (block.attention.out, block.feed_forward.down):  # type: ignore[union-attr]
            nn.init.normal_(layer.weight, std=0.1)  # type: ignore[union-attr, arg-type]
    if world.linear is not None:
        nn.init.normal_(world.linear.weight, std=0.02)
        nn.init.uniform_(world.linear.variance, 0.05, 0.5)
    agents = {}
    for phase in (2, 3):
        torch.manual_seed(seed + 1)
        agents[phase] = Agent(config, sizes)
        torch.manual_seed(seed + phase)
        for head in (agents[phase].policy, agents[phase].reward, agents[phase].value, agents[phase].continuation):
            nn.init.normal_(head.net.out.weight, std=0.2)
    for model in (world, *agents.values()):
        model.eval().requires_grad_(False)
    tokenizer = FrozenTokenizer.from_config(config.tokenizer)
    blocks = torch.randint(256, (9, 8, 8, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    latents = tokenizer.encode_episode(blocks.repeat_interleave(8, 1).repeat_interleave(8, 2).numpy())
    mean, spread = latents.mean((0, 1)), latents.std((0, 1))  # random weights tell pictures apart by a hair
    world.mean.copy_(mean.expand_as(world.mean))
    world.std.copy_(0.05 * spread.expand_as(world.std))
    decoder = PixelDecoder(config.tokenizer.frames_per_latent, config.data.frame_size, width=8).eval()
    found = tuple(find_recordings(recordings)) if recordings is not None else ()
    return Loaded(
        config=config,
        backend=Backend(torch.device("cpu"), "fp32"),
        world=world,
        agents=agents,
        tokenizer=tokenizer,
        decoder=decoder.requires_grad_(False) if decodes else None,
        recordings=found,
        has_environment=config.data.env == "crafter",
    )


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recorded Crafter episodes."""
    pytest.importorskip("crafter")
    from fastdreamer.config import RecordConfig
    from fastdreamer.envs.record import record

    folder = tmp_path_factory.mktemp("recorded")
    record(Config(record=RecordConfig(episodes=2, max_steps=30, noise=0.3)), folder)
    return folder


@pytest.fixture(scope="session")
def single(recorded: Path) -> Loaded:
    """One frame a latent step."""
    return made(*SINGLE, recordings=recorded)


@pytest.fixture(scope="session")
def chunked(recorded: Path) -> Loaded:
    """Four frames a latent step."""
    return made(*CHUNKED, recordings=recorded)


@pytest.fixture(scope="session")
def make() -> Callable[..., Loaded]:
    """A world with other settings."""
    return made
