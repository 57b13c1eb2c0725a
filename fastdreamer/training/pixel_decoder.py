"""The pixel decoder: trained beside phase 1 on recorded frames, so that imagination can be watched.

It reads pooled latents, which are lossy on purpose, and touches nothing else: no other part ever sees its gradient.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fastdreamer.config import Config
from fastdreamer.device import Backend
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.latents.store import LatentStore
from fastdreamer.recordings.recording import DamagedRecording
from fastdreamer.run.checkpoint import Checkpoint, Damaged
from fastdreamer.run.directory import RunDirectory
from fastdreamer.tokenizer.pixels import PixelDecoder
from fastdreamer.training.loop import fit
from fastdreamer.training.models import fill, load_world_model
from fastdreamer.training.phase import Phase, PhaseBatch

FRAMES_IN_MEMORY = 40_000


@dataclass(frozen=True)
class PictureBatch(PhaseBatch):
    """Normalised latents of steps, and their frames in [0, 1]."""

    latents: Float[Tensor, "b n z"]
    frames: Float[Tensor, "b c 3 h w"]
    shares: Float[Tensor, " b"]


class DecoderPhase(Phase[PictureBatch]):
    """Pooled latents of a step to its c frames."""

    number = 0

    def __init__(
        self, config: Config, decoder: PixelDecoder, latents: Tensor, frames: Tensor, device: torch.device
    ) -> None:
        """latents (m, n, z) normalised, frames uint8 (m, c, 3, h, w)."""
        self.decoder, self.latents, self.frames = decoder, latents, frames
        self.batch_size, self.device = config.decoder.batch_size, device
        self.model = nn.ModuleDict({"decoder": decoder})
        self.frozen = {}
        self.data = torch.Generator().manual_seed(config.seed + 4)
        self.generators = {"data": self.data}

    def draw(self) -> PictureBatch:
        """Draw random steps."""
        rows = torch.randint(len(self.latents), (self.batch_size,), generator=self.data)
        frames = self.frames[rows].to(self.device).float() / 255
        shares = torch.full((self.batch_size,), 1 / self.batch_size, device=self.device)
        return PictureBatch(self.latents[rows].to(self.device), frames, shares)

    def loss(self, work: PictureBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error, with some absolute error for sharper edges."""
        apart = self.decoder(work.latents).float() - work.frames
        squared, absolute = ((x.mean((1, 2, 3, 4)) * work.shares).sum() for x in (apart.square(), apart.abs()))
        return squared + 0.1 * absolute, {"loss/pixels": squared.detach()}

    def figures(self, sums: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """The error also as PSNR in dB."""
        return sums | {"psnr": -10 * torch.log10(sums["loss/pixels"].clamp(min=1e-10))}


def train_pixel_decoder(
    config: Config, run: RunDirectory, store: LatentStore, backend: Backend, resume: bool
) -> dict[str, Any]:
    """Trains it if the recordings behind the store are still there; otherwise says why not.

    Returns:
        {"trained": bool, ...}: psnr in dB on the training frames' last batch, or the reason.
    """
    recordings = run.recordings(config)
    if not recordings.is_dir():
        return {"trained": False, "reason": f"no recordings at {recordings}: imagination cannot be drawn"}
    world = load_world_model(run, config, backend.device)
    latents, frames = _pairs(config, store, recordings, world)
    if not len(latents):
        return {"trained": False, "reason": f"no recording in {recordings} matches the store"}
    decoder = PixelDecoder(config.tokenizer.frames_per_latent, frames.shape[-1]).to(backend.device)
    resume_from = _newest(run, config) if resume and run.has_phase(0) else None
    phase = DecoderPhase(config, decoder, latents, frames, backend.device)
    figures = fit(phase, config, config.decoder, run.path, backend, store.tokenizer, resume_from, "pixel decoder")
    known = {"psnr": figures["psnr"]} if "psnr" in figures else {}  # a finished one whose metrics are lost says nothing
    return {"trained": True, **known, "frames": frames.shape[0] * frames.shape[1]}


def _newest(run: RunDirectory, config: Config) -> Checkpoint | None:
    """What the decoder goes on from; it is trained anew where that is damaged, for it is soon done."""
    try:
        return run.load(0, config)
    except Damaged as error:
        print(f"pixel decoder: from its first step on, for {error}", file=sys.stderr, flush=True)
        return None


def load_decoder(run: RunDirectory, config: Config, device: torch.device) -> PixelDecoder | None:
    """The run's pixel decoder, or None where none was trained."""
    if not run.has_phase(0):
        return None
    decoder = PixelDecoder(config.tokenizer.frames_per_latent, config.data.frame_size)
    fill(decoder, run.load(0, config), prefix="decoder.")
    return decoder.to(device).eval().requires_grad_(False)


def _pairs(config: Config, store: LatentStore, recordings: Path, world: WorldModel) -> tuple[Tensor, Tensor]:
    """Normalised latents and their frames, for as many train episodes as fit in memory."""
    from fastdreamer.recordings.identity import behind, check_unchanged
    from fastdreamer.recordings.read import find_recordings, how_to_read, read_recording

    entries = store.manifest["episodes"]
    by_name = behind(find_recordings(recordings), entries, recordings)
    clock, c = store.clock, store.clock.frames_per_latent
    latents, frames, total = [], [], 0
    for episode in store.split("train"):
        if episode.name not in by_name or total > FRAMES_IN_MEMORY:
            continue
        how, size = how_to_read(config), config.data.frame_size
        try:
            check_unchanged(by_name[episode.name], entries[episode.name])
            found = read_recording(by_name[episode.name], store.space, size=size, **how)
        except DamagedRecording as error:
            print(f"pixel decoder: {error}; it is left out", flush=True)
            continue
        pictures = torch.from_numpy(found.frames)
        steps = torch.arange(1 if c > 1 else 0, (len(pictures) - 1) // c + 1)  # whole steps; step 0 has one frame only
        rows = steps[:, None] * c - torch.arange(c - 1, -1, -1)
        frames.append(pictures[rows].permute(0, 1, 4, 2, 3).contiguous())
        positions = torch.tensor([clock.position(int(s)) for s in steps])
        device = world.mean.device
        latents.append(world.normalise(episode.latents[steps].float().to(device), positions.to(device)).cpu())
        total += rows.numel()
    if not latents:
        return torch.empty(0), torch.empty(0)
    return torch.cat(latents), torch.cat(frames)
