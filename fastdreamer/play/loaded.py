"""What a server plays with, opened once for all its sessions: models, tokenizer, decoder, recordings to begin from."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fastdreamer.config import Config
from fastdreamer.device import Backend, choose_device
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.errors import UserError
from fastdreamer.evaluation.evaluate import evaluation_seeds, recorded_seeds
from fastdreamer.heads.agent import Agent
from fastdreamer.imagination.merging import prove_merged
from fastdreamer.imagination.program import cast_once, for_inference
from fastdreamer.latents.splits import natural_split
from fastdreamer.latents.store import read_manifest
from fastdreamer.latents.store_advice import rebuild
from fastdreamer.recordings.actions import ActionSpace, action_space
from fastdreamer.recordings.recording import Recording
from fastdreamer.run.directory import RunDirectory
from fastdreamer.shapes import LatentClock
from fastdreamer.system.advice import command
from fastdreamer.tools.packing.card import read_card, told
from fastdreamer.training.models import agent_from, world_model_from
from fastdreamer.training.pixel_decoder import load_decoder

if TYPE_CHECKING:
    from fastdreamer.tokenizer.frozen import FrozenTokenizer
    from fastdreamer.tokenizer.pixels import PixelDecoder

CRAFTER = "crafter"


@dataclass(frozen=True)
class Loaded:
    """A world to play in.

    Attributes:
        config: the run's configuration.
        backend: device and precision of all models.
        world: the frozen world model.
        agents: the trained ones of phases 2 and 3, by phase.
        tokenizer: what sees real frames.
        decoder: what draws dreams; None: the tokenizer does.
        recordings: what can be begun from: the held-out ones that are still there.
        taken: seeds of worlds that nobody is to be given unasked: the evaluation's, and those recorded for training.
        title: what the page is headed with.
        card: how a packed world was made, a line a name; None for a run.
        notes: what could not be loaded, a line each.
        has_environment: whether the real environment can be played here.
    """

    config: Config
    backend: Backend
    world: WorldModel
    agents: Mapping[int, Agent]
    tokenizer: FrozenTokenizer
    decoder: PixelDecoder | None
    recordings: tuple[Recording, ...] = ()
    taken: frozenset[int] = frozenset()
    title: str = ""
    card: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    has_environment: bool = False

    @property
    def space(self) -> ActionSpace:
        """The actions."""
        return action_space(self.config.data.env)

    @property
    def clock(self) -> LatentClock:
        """Frames to latent steps."""
        return self.world.clock

    @property
    def size(self) -> int:
        """Pixels a side of what is shown."""
        return self.config.data.frame_size

    @property
    def newest(self) -> Agent | None:
        """The agent of the highest phase."""
        return self.agents[max(self.agents)] if self.agents else None

    @property
    def denoising(self) -> list[int]:
        """The numbers of denoising steps K that the model was trained for, in ascending order.

        Trained on the signal levels of its own K alone, it knows those of a K that divides it, and no others; the
        levels of all K are in the grid.
        """
        forcing = self.world.forcing
        most = forcing.sample_steps if forcing.levels == "sampled" else forcing.finest_steps
        return [2**power for power in range(most.bit_length())]

    @cached_property
    def recording_steps(self) -> list[int]:
        """Latent steps that each recording can be begun at; 0 of one that cannot be read."""
        from fastdreamer.recordings.read import how_to_read, read_recording

        found = []
        for recording in self.recordings:
            try:
                labels = read_recording(recording, self.space, frames=False, **how_to_read(self.config))
                found.append(1 + (len(labels) - 1) // self.clock.frames_per_latent)
            except UserError:
                found.append(0)
        return found

    @cached_property
    def plain(self) -> WorldModel:
        """The world with its weights cast once; its passes run eagerly."""
        return for_inference(self.world, replace(self.backend, compiles=False))

    @cached_property
    def merges(self) -> bool:
        """Whether a step is committed together with the first denoising pass of the next one, as in imagination.

        Raises:
            UserError: if this gives other latents than a commit by itself.
        """
        wanted, tokens = self.config.imagination.merge_commit, self.newest is not None and self.newest.agent_tokens
        merges = wanted == "on" or (wanted == "auto" and not tokens)
        if merges:
            prove_merged(self.world)
        return merges

    def fast(self, steps: int) -> WorldModel:
        """The same weights with compiled passes where the backend compiles, sampling in `steps` denoising steps."""
        world = copy(self.plain)
        world.forcing = replace(world.forcing, sample_steps=steps)
        if self.backend.compiles:
            world.read = self._compiled_read  # type: ignore[method-assign]
        return world

    @cached_property
    def _compiled_read(self) -> Any:
        return self.backend.compiled(self.plain.read)


def load(run_dir: Path, backend: Backend | None = None) -> Loaded:
    """A run's newest world model, its agents, and what they are played with.

    Raises:
        UserError: if the folder is no run, no world model is trained there, nothing can draw what it dreams, a part is
            damaged, or the configuration asks for a device that is not there.
    """
    from fastdreamer.tokenizer.engines.installed import open_tokenizer

    run = RunDirectory(run_dir)
    config = run.config()
    trained = run.trained_phases()
    backend = backend or choose_device(config)
    device = backend.device
    newest = run.load(trained[-1], config)
    world, agents, notes = world_model_from(newest, config, device), dict[int, Agent](), []
    for phase in (phase for phase in trained if phase > 1):
        checkpoint = newest if phase == trained[-1] else run.load(phase, config)
        agent = cast_once(agent_from(checkpoint, config, device).eval().requires_grad_(False), backend)
        if checkpoint is not newest and not _are_alike(world, world_model_from(checkpoint, config, device)):
            notes.append(f"phase {phase} was trained on another world model than phase {trained[-1]}: it is left out")
            continue
        agents[phase] = agent
    if len(agents) == 2 and not _have_alike_tokens(agents[2], agents[3]):
        del agents[2]
        notes.append("phase 2 has been trained again since phase 3 began: it is left out")
    decoder = load_decoder(run, config, device)
    if decoder is None and config.tokenizer.weights == "random":
        train = command("train", run_dir=run_dir, phase=1)
        raise UserError(
            f"{run_dir} has no pixel decoder and a tokenizer of random weights, so nothing can draw its dreams; with "
            f"its recordings in place it is trained by: {train}"
        )
    if decoder is None:
        notes.append("no pixel decoder is trained in this run: the tokenizer draws the dreams, coarsely")
    tokenizer = open_tokenizer(config, device, decodes=decoder is None)
    store = run.store(config)
    if store.exists() and read_manifest(store)["key"].get("tokenizer") != tokenizer.fingerprint:
        raise UserError(
            f"latent store {store} was made with another tokenizer than frames are seen by here; {rebuild(store)}"
        )
    taken = frozenset[int]()
    if config.data.env == CRAFTER:
        taken = frozenset(evaluation_seeds(config)) | frozenset(recorded_seeds(config, run))
    return Loaded(
        config, backend, world, agents, tokenizer, decoder, held_out(config, run), taken, Path(run_dir).name,
        told(card) if (card := read_card(Path(run_dir))) else None, tuple(notes), _has_environment(config, notes),
    )  # fmt: skip


def held_out(config: Config, run: RunDirectory) -> tuple[Recording, ...]:
    """The recordings behind the store's held-out episodes; without a store those that would be held out, or all."""
    from fastdreamer.recordings.find import find_recordings
    from fastdreamer.recordings.identity import behind

    folder, store = run.recordings(config), run.store(config)
    if not folder.is_dir():
        return ()
    try:
        found = find_recordings(folder)
        if not store.exists():
            apart = tuple(r for r in found if natural_split(r.name, config.data.held_out) == "held_out")
            return apart or tuple(found)
        entries = read_manifest(store)["episodes"]
    except UserError:
        return ()
    names = {name for name, entry in entries.items() if entry["split"] == "held_out"}
    return tuple(recording for name, recording in behind(found, entries, folder).items() if name in names)


def _has_environment(config: Config, notes: list[str]) -> bool:
    if config.data.env != CRAFTER:
        return False
    from fastdreamer.envs.crafter import import_crafter

    try:
        import_crafter()
    except UserError as error:
        notes.append(str(error))
        return False
    return True


def _are_alike(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def _have_alike_tokens(one: Agent, other: Agent) -> bool:
    """Whether two agents read the world by the same tokens, so that one pass serves both."""
    if one.tasks is not None and other.tasks is not None and not _are_alike(one.tasks, other.tasks):
        return False
    return torch.equal(one.tokens, other.tokens)
