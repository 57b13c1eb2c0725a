"""The course of one episode: its first moment, and what each action leads to in the real environment and the dream."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy import ndarray
from torch import Tensor

from fastdreamer.evaluation.payments import tasks_of
from fastdreamer.heads.history import History
from fastdreamer.play.chance import Chance
from fastdreamer.play.dream import Dream
from fastdreamer.play.eyes import Eyes
from fastdreamer.play.film import Footage, resized
from fastdreamer.play.loaded import Loaded
from fastdreamer.play.moment import Fork, Moment, Real, RealStep, Unseen
from fastdreamer.play.reality import Arrived, CrafterReality, Reality, RecordedReality
from fastdreamer.play.thoughts import Mind, read_real, think
from fastdreamer.play.urgency import IsSuperseded, Superseded, never

YOU, RANDOM, RECORDED = "you", "random", "recorded"
AGENTS = {"phase2": 2, "phase3": 3}


class Course:
    """One episode.

    Args:
        loaded: what is played with.
        dream: the dream, which this episode has to itself.
        reality: the real side, at the step at which the episode is begun.
        footage: the recording that it is begun from, if any.
        chance: all that is drawn in it.
    """

    def __init__(self, loaded: Loaded, dream: Dream, reality: Reality, footage: Footage | None, chance: Chance) -> None:
        self.loaded, self.reality, self.footage = loaded, reality, footage
        self._dream, self._eyes, self._chance = dream, Eyes(loaded), chance
        self._chunk = loaded.clock.frames_per_latent

    def first(self, step: int, task: int) -> Moment:
        """The moment at which the episode is begun."""
        reality, footage, chunk = self.reality, self.footage, None
        if footage is None:
            assert isinstance(reality, CrafterReality)
            begun, window = self._eyes.begin(reality.frame)
            past: tuple[RealStep, ...] = (begun,)
        else:
            past, window = self._eyes.begin_recorded(footage, step)
            chunk = footage.chunk(step).astype(np.int64) if step else None
        frames = np.repeat(window[-1][-1:], self._chunk, 0) if step == 0 else window[-1]
        real = Real(past, window, resized(frames, self.loaded.size), reality.save())
        fork = self._forked(real, step, is_alone=False)
        now = Moment(
            step=step,
            real=real,
            fork=fork,
            dreamt=self._dream.pictures(),
            chunk=chunk,
            count=0 if chunk is None else len(chunk),
            trace=self._eyes.trace(self._history, footage, step),
            paid=None,
            returns={each.name: 0.0 for each in tasks_of(self.loaded.config)},
            over=reality.over if isinstance(reality, CrafterReality) else None,
        )
        return self.rethought(now, task)

    def after(
        self,
        now: Moment,
        chunk: Int[ndarray, "c k"],
        known: Bool[ndarray, " c"],
        task: int,
        superseded: IsSuperseded = never,
    ) -> tuple[Moment, Arrived | None]:
        """The moment that a chunk leads to, as far as it takes to show it, and what the environment gave.

        Raises:
            Superseded: if `superseded()` before the dream has moved; the environment has.
        """
        assert now.is_whole
        arrived = None if now.fork.is_alone else self.reality.step(chunk)
        if superseded():
            raise Superseded
        step, real, returns = now.step + 1, None, None
        if arrived is not None and now.real is not None:
            is_known = torch.arange(len(chunk)) < arrived.count
            unseen = Unseen(arrived.frames, torch.from_numpy(chunk) * is_known[:, None], is_known)
            shown = resized(arrived.frames, self.loaded.size)
            real = Real(now.real.past, now.real.window, shown, self.reality.save(), unseen)
        self._dream.step(chunk, self._chance.noise(step), known, task)
        trace, paid = now.trace, arrived.paid if arrived is not None else None
        if self._history is not None and trace is not None:
            led_by = (torch.from_numpy(values)[None].to(trace.device) for values in (chunk, known))
            trace = self._history.after(trace, *led_by)
        if now.returns is not None and paid is not None:
            returns = {name: total + paid[name] for name, total in now.returns.items()}
        after = Moment(
            step=step,
            real=real,
            fork=Fork(now.fork.latents, self._dream.save(), now.fork.dreamed + 1, now.fork.is_alone),
            dreamt=self._dream.pictures(),
            chunk=chunk,
            count=int(known.sum()) if arrived is None else arrived.count,
            trace=trace,
            paid=paid,
            returns=returns,
            over=arrived.over if arrived is not None else None,
            before=now.minds or {},
            task=task,
            played=now.played + (arrived.count if arrived is not None else 0),
        )
        return after, arrived

    def seen(self, now: Moment) -> Moment:
        """The same moment with what the encoder sees of it."""
        if now.real is None or now.real.unseen is None:
            return now
        (frames, led, known), real = now.real.unseen, now.real
        latents, window = self._eyes.push(frames, real.window, now.step)
        past = (*real.past, RealStep(latents, led, known))[-self.loaded.config.dynamics.context :]
        return replace(now, real=replace(real, past=past, window=window, unseen=None))

    def forked(self, now: Moment, task: int) -> Moment:
        """The same moment, dreamt on from its real state; where the real episode is over, the dream goes on alone."""
        assert now.real is not None
        fork = self._forked(now.real, now.step, is_alone=now.over is not None or now.fork.is_alone)
        before = {
            phase: dict.fromkeys(("real", "dream"), minds["real"])
            for phase, minds in now.before.items()
            if "real" in minds
        }
        return self.rethought(replace(now, fork=fork, dreamt=self._dream.pictures(), over=None, before=before), task)

    def rethought(self, now: Moment, task: int) -> Moment:
        """The same moment with what the agents think of it for a task."""
        states, reads = {"dream": now.fork.state.latents[1]}, {"dream": now.fork.state.read}
        if now.real is not None:
            states = {"real": now.real.past[-1].latents, **states}
        backend, minds = self.loaded.backend, dict[int, dict[str, Mind]]()
        for phase, agent in self.loaded.agents.items():
            if agent.agent_tokens and now.real is not None:
                context = self._context(now.real, now.step)
                reads["real"] = read_real(self.loaded.plain, agent, backend, *context, task)
            before = now.before.get(phase, {})
            minds[phase] = think(agent, backend, states, reads, before, now.trace, now.chunk, task)
        return replace(now, minds=minds, task=task)

    def restore(self, moment: Moment) -> None:
        """Put dream and reality back to a moment."""
        self._dream.restore(moment.fork.state)
        if moment.real is not None:
            self.reality.restore(moment.real.state)

    def chosen(
        self, now: Moment, who: str, greedy: bool, own: Int[ndarray, " k"]
    ) -> tuple[Int[ndarray, "c k"], Bool[ndarray, " c"]]:
        """The chunk that is played next, and which of its actions are known.

        Args:
            now: the moment at which it is played.
            who: the player.
            greedy: whether an agent takes what is likeliest.
            own: your action.
        """
        c, space, known = self._chunk, self.loaded.space, np.ones(self._chunk, bool)
        if who == RANDOM:
            return self._chance.random_chunk(now.step, c, space.sizes), known
        if who == RECORDED:
            assert self.footage is not None
            recorded = self.footage.chunk(now.step + 1).astype(np.int64)
            chunk = np.concatenate([recorded, np.tile(np.array(space.noop, np.int64), (c - len(recorded), 1))])
            if isinstance(self.reality, RecordedReality):
                known = (np.arange(c) < len(recorded)) & self.footage.labels.labelled
            return chunk, known
        if who in AGENTS:
            assert now.minds is not None
            minds = now.minds[AGENTS[who]]
            logits = (minds.get("real") or minds["dream"]).logits
            uniform = None if greedy else self._chance.uniform(now.step, c, sum(space.sizes))
            return self.loaded.agents[AGENTS[who]].policy.choose(logits, uniform).numpy(), known
        return np.tile(own, (c, 1)), known

    def _forked(self, real: Real, step: int, is_alone: bool) -> Fork:
        """A dream that begins at a real state."""
        self._dream.begin(*self._context(real, step), step)
        return Fork(real.past[-1].latents, self._dream.save(), 0, is_alone)

    def _context(self, real: Real, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The last real steps: latents, the actions that led into them, which are known, and their noise."""
        latents, actions, known = (torch.stack(parts) for parts in zip(*real.past, strict=True))
        first = step - len(real.past) + 1
        noise = torch.stack([self._chance.noise(first + index)[1] for index in range(len(real.past))])
        return latents, actions, known, noise

    @property
    def _history(self) -> History | None:
        return None if self.loaded.newest is None else self.loaded.newest.history
