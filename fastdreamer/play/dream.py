"""The dream: one latent step of the world model as one static program, from the action to the picture.

Action, noise and TASK token lie in buffers that are written in front of a step; denoising, commit and pixel decoder
read and write buffers that are made once. So the same region runs eagerly, compiled, or as a CUDA graph, as
`imagination.program` does, whose step is the same but for who acts. `dynamics.sampler` is the plain version that it is
compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from torch import Tensor
from torch.nn import functional as F

from fastdreamer.dynamics.sampler import commit, commit_and_sample_next, sample_next
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.imagination.capture import capture
from fastdreamer.play.loaded import Loaded
from fastdreamer.shapes import CHANNELS, TOKENS


@dataclass(frozen=True)
class DreamState:
    """A moment of a dream, on the CPU; moments that follow one another share what they have in common.

    Attributes:
        slots: keys and values of each of the last steps that can still be read, the newest last.
        position: steps that the cache has taken in; where commits are merged, all but the newest.
        seen: the newest step as the cache saw it, and its signal level, for a linear start.
        latents: the newest two steps, normalised.
        token: the actions that led into the newest step, as the world reads them, and `noise` that of its commit.
        read: what the agent tokens read, empty without them.
        step: the latent step of the episode.
    """

    slots: tuple[Float[Tensor, " m"], ...]
    position: int
    seen: tuple[Tensor, Tensor]
    latents: Float[Tensor, "2 n z"]
    token: Float[Tensor, "1 d"]
    noise: Float[Tensor, "1 n z"]
    read: Float[Tensor, "a d"]
    step: int


class Dream:
    """One dream.

    Args:
        loaded: the world, and what draws it.

    Attributes:
        step_number: the latent step of the episode that the dream is at.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.loaded, self.backend, world = loaded, loaded.backend, loaded.world
        device, chunk, components = self.backend.device, world.clock.frames_per_latent, len(world.sizes)
        self.agent = loaded.newest
        agents = self.agent.token_count if self.agent is not None else 0
        self.noise = torch.zeros(2, 1, TOKENS, CHANNELS, device=device)
        self.context_noise = torch.zeros(1, TOKENS, CHANNELS, device=device)
        self.token = torch.zeros(1, world.action_width, device=device)
        self.actions = torch.zeros(1, 1, chunk, components, dtype=torch.int64, device=device)
        self.known = torch.ones(1, 1, chunk, dtype=torch.bool, device=device)
        self.labelled = torch.ones(1, dtype=torch.bool, device=device)
        self.task = torch.zeros(1, dtype=torch.int64, device=device)
        self.latents = torch.zeros(2, 1, TOKENS, CHANNELS, device=device)
        self.read = torch.zeros(agents, world.config.dim, device=device)
        self.frames = torch.zeros(chunk, loaded.size, loaded.size, 3, dtype=torch.uint8, device=device)
        with self.backend.autocast():
            self.cache = world.new_cache(1, agents, 1 + loaded.merges)
        self.step_number, self._position = 0, 0
        self._slots: tuple[Tensor, ...] = ()
        self._decode = None if loaded.decoder is None else self.backend.compiled(loaded.decoder.forward)
        self._regions: dict[int, Callable[[], None]] = {}
        self.denoising = world.forcing.sample_steps

    @property
    def denoising(self) -> int:
        """Denoising steps K."""
        return self._denoising

    @denoising.setter
    def denoising(self, steps: int) -> None:
        """Choose another K; its program is made at the first use, and leaves the dream where it is."""
        if steps not in self._regions:
            world = self.loaded.fast(steps)
            region = self._region(world)
            if self.backend.device.type == "cuda" and self.loaded.config.imagination.capture != "off":
                before = self.save()
                with torch.no_grad():
                    region = capture(region, before=self.cache.reset)
                self.restore(before)
            self._regions[steps] = region
        self._denoising = steps

    @torch.no_grad()
    def begin(
        self,
        latents: Float[Tensor, "l n z"],
        actions: Int[Tensor, "l c k"],
        known: Bool[Tensor, "l c"],
        noise: Float[Tensor, "l n z"],
        step: int,
    ) -> None:
        """Begin anew from real steps, which are taken in by one pass.

        Args:
            latents: the newest `dynamics.context` of them at most, normalised.
            actions: the chunk that led into each.
            known: mask of its actions: an episode's first step has none.
            noise: each step's, as context.
            step: the newest one's number in the episode.
        """
        count = len(latents)
        committed = count - self.loaded.merges
        assert 1 <= count <= self.cache.context, (count, self.cache.context)
        self.cache.reset()
        device, world = self.backend.device, self.loaded.plain
        real, shown, mask = latents.to(device)[None], actions.to(device)[None], known.to(device)[None]
        with self.backend.autocast():
            token = world.embed_actions(shown, mask, self.labelled)
            if committed:
                first = slice(None, committed)
                noises = noise.to(device)[None, first]
                read = commit(world, self.cache, real[:, first], token[:, first], noises, self._tokens())
                if read is not None:
                    self.read.copy_(read[0, -1])
        self.token.copy_(token[:, -1])
        self.context_noise.copy_(noise[-1:])
        self.latents[0].copy_(real[:, max(0, count - 2)])
        self.latents[1].copy_(real[:, -1])
        self.step_number = step
        self._position = committed
        self._slots = tuple(self._taken(position) for position in range(committed))
        if self._decode is not None:
            self._draw()

    @torch.no_grad()
    def step(
        self,
        chunk: Int[ndarray, "c k"],
        noise: Float[Tensor, "2 n z"],
        known: Bool[ndarray, " c"] | None = None,
        task: int = 0,
    ) -> None:
        """Dream one step on.

        Args:
            chunk: the actions that lead into it.
            noise: the start of its denoising, and the noise of its commit.
            known: mask of the actions that are known; None: all.
            task: number of the TASK token.
        """
        self.actions.copy_(torch.from_numpy(np.ascontiguousarray(chunk, np.int64))[None, None])
        self.known.copy_(torch.ones(1) if known is None else torch.from_numpy(known))
        self.noise.copy_(noise[:, None])
        self.task.fill_(task)
        self._regions[self._denoising]()
        self._slots = (*self._slots, self._taken(self._position))[-self.cache.size :]
        self._position += 1
        self.step_number += 1

    def pictures(self) -> UInt8[ndarray, "c h w 3"]:
        """The c frames of the newest step; step 0 of an episode has one, which is shown c times."""
        frames = self.frames.cpu().numpy().copy() if self._decode is not None else self._drawn_by_tokenizer()
        return np.repeat(frames[-1:], len(frames), 0) if self.step_number == 0 else frames

    def state(self) -> Float[Tensor, "n z"]:
        """The newest step, normalised, on the CPU."""
        return self.latents[1, 0].to("cpu", copy=True)

    def save(self) -> DreamState:
        """The dream as it stands, for `restore`."""
        seen = self.cache.newest.to("cpu", copy=True), self.cache.newest_signal.to("cpu", copy=True)
        latents, read = self.latents[:, 0].to("cpu", copy=True), self.read.to("cpu", copy=True)
        token, noise = self.token.to("cpu", copy=True), self.context_noise.to("cpu", copy=True)
        return DreamState(self._slots, self._position, seen, latents, token, noise, read, self.step_number)

    def restore(self, state: DreamState) -> None:
        """Put back what `save` gave: the same actions and noise then lead to the same frames."""
        self.cache.reset()
        tensors = self.cache.tensors()
        sizes = [tensor.select(2, 0).numel() for tensor in tensors]
        first = state.position - len(state.slots)
        for index, slot in enumerate(state.slots):
            place = (first + index) % self.cache.size
            for tensor, part in zip(tensors, slot.to(self.backend.device).split(sizes), strict=True):
                place_of = tensor.select(2, place)
                place_of.copy_(part.view_as(place_of))
        self.cache.position.fill_(state.position)
        self.cache.newest.copy_(state.seen[0])
        self.cache.newest_signal.copy_(state.seen[1])
        self.latents[:, 0].copy_(state.latents)
        self.token.copy_(state.token)
        self.context_noise.copy_(state.noise)
        self.read.copy_(state.read)
        self._slots, self._position, self.step_number = state.slots, state.position, state.step

    @property
    def state_bytes(self) -> int:
        """What one more kept moment takes, shared parts not counted."""
        slot = sum(tensor.select(2, 0).numel() * tensor.element_size() for tensor in self.cache.tensors())
        others = (self.latents, self.token, self.context_noise, self.read, self.cache.newest)
        return slot + sum(tensor.numel() * tensor.element_size() for tensor in others)

    def _region(self, world: WorldModel) -> Callable[[], None]:
        """One step from the buffers to the buffers."""

        def region() -> None:
            with self.backend.autocast():
                token = world.embed_actions(self.actions, self.known, self.labelled)[:, 0]
                if self.loaded.merges:
                    newest, its_noise = self.latents[1], self.context_noise
                    state = commit_and_sample_next(
                        world, self.cache, newest, self.token, its_noise, token, self.noise[0]
                    )
                else:
                    state = sample_next(world, self.cache, token, self.noise[0])
                    after = self.noise[1][:, None]
                    read = commit(world, self.cache, state[:, None], token[:, None], after, self._tokens())
                    if read is not None:
                        self.read.copy_(read[0, -1])
            self.token.copy_(token)
            self.context_noise.copy_(self.noise[1])
            self.latents[0].copy_(self.latents[1])
            self.latents[1].copy_(state)
            if self._decode is not None:
                self._draw()

        return region

    def _tokens(self) -> Tensor | None:
        return None if self.agent is None else self.agent.embed_tokens(self.task)

    def _draw(self) -> None:
        assert self._decode is not None
        pixels = self._decode(self.latents[1])[0].clamp(0, 1)
        self.frames.copy_((pixels * 255).round().permute(0, 2, 3, 1))

    def _drawn_by_tokenizer(self) -> UInt8[ndarray, "c h w 3"]:
        """Frames by the tokenizer's decoder, which takes the step before as the first of its clip."""
        world, c = self.loaded.world, self.loaded.clock.frames_per_latent
        step = self.step_number
        positions = torch.tensor([self.loaded.clock.position(max(0, step - 1)), self.loaded.clock.position(step)])
        raw = world.denormalise(self.latents[:, 0], positions.to(self.backend.device))
        video = self.loaded.tokenizer.decode_pooled(raw[None])[0, :, -c:].movedim(1, 0)
        sized = F.interpolate(video, size=(self.loaded.size,) * 2, mode="area")
        return np.asarray((sized * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())

    def _taken(self, position: int) -> Float[Tensor, " m"]:
        """Keys and values of one step, all layers' in one piece, on the CPU."""
        place = position % self.cache.size
        return torch.cat([tensor.select(2, place).reshape(-1) for tensor in self.cache.tensors()]).cpu()


def compile_ahead(loaded: Loaded, say: Callable[[str], None]) -> None:
    """Compile what a session's steps run, where they are compiled, so that nobody waits for it in the page."""
    if not loaded.backend.compiles:
        return
    say("compiling the dream's step: seconds where its code is on disk already, else about a minute")
    dream, clock = Dream(loaded), loaded.clock
    blank, actions = torch.zeros(1, TOKENS, CHANNELS), torch.zeros(1, clock.frames_per_latent, len(loaded.space.sizes))
    dream.begin(blank, actions.long(), torch.zeros(actions.shape[:2], dtype=torch.bool), blank, 0)
    for _ in range(2):
        dream.step(actions[0].long().numpy(), torch.zeros(2, TOKENS, CHANNELS))
