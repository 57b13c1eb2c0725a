"""A session of play: everything that a page can ask for, without a page. Not for several threads at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray
from torch import Tensor

from fastdreamer.errors import UserError
from fastdreamer.evaluation.payments import tasks_of
from fastdreamer.heads.history import History
from fastdreamer.play.chance import Chance
from fastdreamer.play.describe import describe
from fastdreamer.play.dream import Dream
from fastdreamer.play.eyes import Eyes
from fastdreamer.play.footage import Footage, resized
from fastdreamer.play.loaded import Loaded
from fastdreamer.play.moment import Fork, Moment, Real, RealStep, View
from fastdreamer.play.reality import DIED, LONGEST, Arrived, CrafterReality, Reality, RecordedReality, replayed
from fastdreamer.play.recorder import Recorder, seeds_in
from fastdreamer.play.thoughts import Mind, read_real, think

REWINDS = 128
"""Steps that can be taken back."""
FIRST_WORLD = 20_000_000
STRIP, STRIP_SIZE = 48, 64
END_OF_RECORDING = "end of recording"
YOU, RANDOM, RECORDED = "you", "random", "recorded"
AGENTS = {"phase2": 2, "phase3": 3}


class Session:
    """The controls of a dream and of the real environment beside it; one player acts in both.

    Args:
        loaded: what is played with; sessions may share it.
        record: a folder of recordings for what is played in the real environment; None: nothing is recorded.
        seed: all chance of the session.

    Raises:
        UserError: if there is neither an environment nor a recording to begin with, or `record` cannot be written.
    """

    def __init__(self, loaded: Loaded, record: Path | None = None, seed: int = 0) -> None:
        if not loaded.has_environment and not loaded.recordings:
            raise UserError(
                f"{loaded.config.data.env} has no environment here, and no recording of the run's held-out split is "
                "there to begin from: put the recordings back, or play a Crafter run"
            )
        if record is not None and not loaded.has_environment:
            raise UserError("nothing can be recorded: there is no environment here, and a dream is no recording")
        self.loaded, self.seed = loaded, seed
        self.who, self.greedy, self.task = YOU, False, loaded.config.evaluation.task if loaded.config.task_count else 0
        self._tasks = tasks_of(loaded.config)
        self._dream, self._eyes = Dream(loaded), Eyes(loaded)
        self._record = record
        self._recorder = Recorder(record, LONGEST) if record is not None else None
        self._episode, self._next_world = -1, FIRST_WORLD
        self._begun = set[int]()
        self._moments: deque[Moment] = deque(maxlen=REWINDS + 1)
        self._footage: Footage | None = None
        self._reality: Reality
        self.start() if loaded.has_environment else self.start(recording=0)

    def describe(self) -> dict[str, Any]:
        """What a page has to know at first, as JSON can hold it."""
        return describe(self.loaded, self._recorder is not None, REWINDS)

    def view(self) -> View:
        """The moment as it stands; nothing moves."""
        now = self._moments[-1]
        over = self._over(now)
        said = now.said | {
            "who": self.who,
            "greedy": self.greedy,
            "denoising": self._dream.denoising,
            "task": self.task,
            "drift": _drift(now),
            **self._minds(now),
            "over": over,
            "rewindable": len(self._moments) - 1,
            "episode": self._reality.name,
            "recording": self._recorder.name if self._recorder is not None else None,
        }
        return View(None if now.real is None else now.real.shown, now.dreamt, said)

    def step(self, action: Sequence[int] | None = None) -> View:
        """One latent step of c frames, in the real environment and in the dream.

        An episode that is over stays as it is.

        Args:
            action: a label's number a component, held for all c frames; None: the no-op. Used where `you` play alone.

        Raises:
            UserError: if the action is none, or what was played cannot be recorded (the step is taken then).
        """
        own = self._checked(action)
        now = self._moments[-1]
        if self._over(now) is not None:
            return self.view()
        try:
            chunk, known = self._chosen(now, own)
            after, arrived = self._after(now, chunk, known)
        except BaseException:
            self._restore(now)
            raise
        self._moments.append(after)
        self._recorded(after, arrived)
        return self.view()

    def rewind(self, steps: int) -> View:
        """Go back, as far as moments are kept; the same actions then lead to the very frames again.

        Raises:
            UserError: if `steps` is no whole number from 0 on.
        """
        back = min(_whole("steps", steps), len(self._moments) - 1)
        for _ in range(back):
            self._moments.pop()
        if back:
            self._restore(self._moments[-1])
            if self._recorder is not None:
                self._recorder.cut(self._moments[-1].played)
        return self.view()

    def fork(self) -> View:
        """Let the dream begin again from the real state now; where the real episode is over, it goes on alone.

        Raises:
            UserError: if nothing is known of the real state now.
        """
        now = self._moments[-1]
        if now.real is None:
            raise UserError("there is no real state here to dream on from: rewind to one, or start anew")
        fork = self._forked(now.real, now.step, is_alone=now.over is not None or now.fork.is_alone)
        before = {phase: {side: minds["real"] for side in ("real", "dream") if "real" in minds}
                  for phase, minds in now.before.items()}
        forked = replace(now, fork=fork, dreamt=self._dream.pictures(), over=None, before=before)
        self._moments[-1] = self._rethought(forked)
        return self.view()

    def start(self, seed: int | None = None, recording: int | None = None, step: int = 0) -> View:
        """Begin another episode; the one in hand is recorded first, as one that was cut.

        Args:
            seed: a world of the environment; None: one that nobody has played yet.
            recording: the number of a held-out recording instead, as `describe` lists them.
            step: a latent step of it.

        Raises:
            UserError: if there is no such beginning, or the episode in hand cannot be written: it stays in hand.
        """
        footage, number = None, _whole("step", step)
        if recording is not None:
            footage = self._opened(recording)
            last = (footage.count - 1) // self.loaded.clock.frames_per_latent
            if number > last:
                raise UserError(f"recording {footage.name} has the steps 0 to {last}; there is no step {number}")
        elif number:
            raise UserError("a world begins at its first step; only a recording has others to start from")
        if footage is None and not self.loaded.has_environment:
            raise UserError(f"{self.loaded.config.data.env} has no environment here: start from a recording")
        tasks = [task.name for task in self._tasks]
        reality: Reality
        if footage is None:
            reality = CrafterReality(self._world(seed), tasks)
        else:
            own = replayed(footage, tasks, number) if self.loaded.has_environment else None
            reality = own or RecordedReality(footage, tasks, number)
        self._finish()
        self._footage, self._reality = footage, reality
        self._episode += 1
        self._chance = Chance(self.seed, self._episode)
        if self.who == RECORDED and footage is None:
            self.who = YOU
        self._moments.clear()
        self._moments.append(self._first(number))
        if self._recorder is not None and isinstance(reality, CrafterReality) and footage is None:
            self._recorder.begin(reality.seed, reality.frame, reality.counters)
        return self.view()

    def choose(
        self,
        who: str | None = None,
        greedy: bool | None = None,
        denoising: int | None = None,
        task: int | None = None,
    ) -> View:
        """Choose who plays and how; what is None stays as it is.

        Args:
            who: one of the players in `describe`.
            greedy: whether agents take what is likeliest, or draw.
            denoising: steps K of the dream.
            task: number of the TASK token.

        Raises:
            UserError: if there is no such choice; then nothing changes.
        """
        said = self.describe()
        if who is not None and who not in said["players"]:
            raise UserError(f"nobody here is called {str(who)[:40]!r}; players are {', '.join(said['players'])}")
        if who == RECORDED and self._footage is None:
            raise UserError("this world has no recorded actions: start from a recording first")
        if greedy is not None and not isinstance(greedy, bool):
            raise UserError(f"greedy is {str(greedy)[:40]!r}; it must be true or false")
        if denoising is not None and (isinstance(denoising, bool) or denoising not in said["denoising"]):
            known = ", ".join(map(str, said["denoising"]))
            raise UserError(f"denoising is {str(denoising)[:40]}; this model was trained for {known}")
        if task is not None and _whole("task", task) >= len(said["tasks"]):
            raise UserError(f"there is no task {task}: the agent knows {len(said['tasks'])}")
        if denoising is not None:
            self._dream.denoising = denoising
        self.who = self.who if who is None else who
        self.greedy = self.greedy if greedy is None else greedy
        if task is not None and task != self.task:
            self.task = task
            self._moments[-1] = self._rethought(self._moments[-1])
        return self.view()

    def filmstrip(self, recording: int) -> tuple[list[int], UInt8[ndarray, "f h w 3"]]:
        """Steps spread over a held-out recording, and the last frame of each, to pick a start from.

        Raises:
            UserError: if there is no such recording, or it cannot be read.
        """
        footage = self._opened(recording)
        return footage.filmstrip(STRIP, min(STRIP_SIZE, self.loaded.size))

    def close(self) -> None:
        """End the session: the episode in hand is recorded as one that was cut.

        Raises:
            UserError: if it cannot be written; it is lost then, and the line says so.
        """
        try:
            self._finish()
        except UserError as error:
            assert self._recorder is not None
            raise UserError(f"{error}; {self._recorder.abandon()}") from error

    def _first(self, step: int) -> Moment:
        """The moment at which an episode is begun."""
        reality, footage, chunk = self._reality, self._footage, None
        if footage is None:
            assert isinstance(reality, CrafterReality)
            begun, window = self._eyes.begin(reality.frame)
            past: tuple[RealStep, ...] = (begun,)
        else:
            past, window = self._eyes.begin_recorded(footage, step)
            chunk = footage.chunk(step).astype(np.int64) if step else None
        c = self.loaded.clock.frames_per_latent
        frames = np.repeat(window[-1][-1:], c, 0) if step == 0 else window[-1]
        real = Real(past, window, resized(frames, self.loaded.size), reality.save())
        fork = self._forked(real, step, is_alone=False)
        return self._rethought(
            Moment(
                step=step,
                real=real,
                fork=fork,
                dreamt=self._dream.pictures(),
                chunk=chunk,
                count=0 if chunk is None else len(chunk),
                trace=self._eyes.trace(self._history, footage, step),
                paid=None,
                returns={task.name: 0.0 for task in self._tasks},
                over=reality.over if isinstance(reality, CrafterReality) else None,
            )
        )

    def _forked(self, real: Real, step: int, is_alone: bool) -> Fork:
        """A dream that begins at a real state."""
        latents, actions, known, noise = self._context(real, step)
        self._dream.begin(latents, actions, known, noise, step)
        return Fork(real.past[-1].latents, self._dream.save(), 0, is_alone)

    def _context(self, real: Real, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The last real steps: latents, the actions that led into them, which are known, and their noise."""
        latents, actions, known = (torch.stack(parts) for parts in zip(*real.past, strict=True))
        first = step - len(real.past) + 1
        return latents, actions, known, torch.stack([self._chance.noise(first + i)[1] for i in range(len(real.past))])

    def _after(self, now: Moment, chunk: ndarray, known: ndarray) -> tuple[Moment, Arrived | None]:
        """The moment that a chunk leads to, and what the environment gave."""
        arrived = None if now.fork.is_alone else self._reality.step(chunk)
        step, real, returns = now.step + 1, None, None
        if arrived is not None and now.real is not None:
            is_known = torch.arange(len(chunk)) < arrived.count
            led = torch.from_numpy(chunk) * is_known[:, None]
            latents, window = self._eyes.push(arrived.frames, now.real.window, step)
            past = (*now.real.past, RealStep(latents, led, is_known))[-self.loaded.config.dynamics.context :]
            real = Real(past, window, resized(arrived.frames, self.loaded.size), self._reality.save())
        self._dream.step(chunk, self._chance.noise(step), known, self.task)
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
            before=now.minds,
            played=now.played + (arrived.count if arrived is not None else 0),
        )
        return self._rethought(after), arrived

    def _rethought(self, now: Moment) -> Moment:
        """The same moment with what the agents think of it."""
        states, reads = {"dream": now.fork.state.latents[1]}, {"dream": now.fork.state.read}
        if now.real is not None:
            states = {"real": now.real.past[-1].latents, **states}
        backend, minds = self.loaded.backend, dict[int, dict[str, Mind]]()
        for phase, agent in self.loaded.agents.items():
            if agent.agent_tokens and now.real is not None:
                context = self._context(now.real, now.step)
                reads["real"] = read_real(self.loaded.plain, agent, backend, *context, self.task)
            before = now.before.get(phase, {})
            minds[phase] = think(agent, backend, states, reads, before, now.trace, now.chunk, self.task)
        return replace(now, minds=minds, task=self.task)

    def _chosen(self, now: Moment, own: ndarray) -> tuple[ndarray, ndarray]:
        """The chunk that is played next, (c, k), and which of its actions are known."""
        c, sizes = self.loaded.clock.frames_per_latent, self.loaded.space.sizes
        known = np.ones(c, bool)
        if self.who == RANDOM:
            return self._chance.random_chunk(now.step, c, sizes), known
        if self.who == RECORDED:
            assert self._footage is not None
            recorded = self._footage.chunk(now.step + 1).astype(np.int64)
            noop = np.array(self.loaded.space.noop, np.int64)
            chunk = np.concatenate([recorded, np.tile(noop, (c - len(recorded), 1))])
            if isinstance(self._reality, RecordedReality):
                known = np.arange(c) < len(recorded)
            return chunk, known
        if self.who in AGENTS:
            minds = now.minds[AGENTS[self.who]]
            logits = (minds.get("real") or minds["dream"]).logits
            uniform = None if self.greedy else self._chance.uniform(now.step, c, sum(sizes))
            return self.loaded.agents[AGENTS[self.who]].policy.choose(logits, uniform).numpy(), known
        return np.tile(own, (c, 1)), known

    def _over(self, now: Moment) -> str | None:
        if now.over is not None or self.who != RECORDED:
            return now.over
        assert self._footage is not None
        return None if len(self._footage.chunk(now.step + 1)) else END_OF_RECORDING

    def _minds(self, now: Moment) -> dict[str, Any]:
        """What the agents say: at the real state where there is one, and at the dream's."""
        where = "real" if now.real is not None else "dream"
        said = {str(phase): minds[where].said for phase, minds in now.minds.items()}
        phase = AGENTS.get(self.who, max(now.minds, default=0))
        dreamt = now.minds[phase]["dream"].said if phase in now.minds else None
        task = self._tasks[min(self.task, len(self._tasks) - 1)].name
        return {
            "agent": said,
            "dreamed_agent": dreamt,
            "paid": None if now.paid is None else round(now.paid[task], 5),
            "return": None if now.returns is None else round(now.returns[task], 5),
        }

    def _restore(self, moment: Moment) -> None:
        """Put dream and reality back to a moment."""
        self._dream.restore(moment.fork.state)
        if moment.real is not None:
            self._reality.restore(moment.real.state)
        if moment.task != self.task:
            self._moments[-1] = self._rethought(moment)

    def _recorded(self, after: Moment, arrived: Arrived | None) -> None:
        if self._recorder is None or arrived is None or not isinstance(self._reality, CrafterReality):
            return
        assert after.chunk is not None
        count = arrived.count
        self._recorder.add(
            arrived.frames[:count], after.chunk[:count], arrived.rewards, arrived.counters, self.who
        )
        if after.over is not None:
            self._recorder.write(after.over == DIED, self._reality.unlocked)

    def _finish(self) -> None:
        if self._recorder is not None:
            is_live = isinstance(getattr(self, "_reality", None), CrafterReality)
            self._recorder.finish(self._reality.unlocked if is_live else ())  # type: ignore[attr-defined]

    def _world(self, seed: int | None) -> int:
        taken = self.loaded.taken
        if seed is not None:
            number = _whole("seed", seed)
            if number >= 2**31:
                raise UserError(f"seed is {number}; worlds are numbered below 2^31")
            if self._recorder is not None and number in taken:
                raise UserError(f"world {number} is one of the run's own, recorded or for evaluation: choose another")
            return number
        there = taken | self._begun | (seeds_in(self._record) if self._record is not None else set())
        while self._next_world in there:
            self._next_world += 1
        self._begun.add(self._next_world)
        return self._next_world

    def _opened(self, recording: int) -> Footage:
        number = _whole("recording", recording)
        if number >= len(self.loaded.recordings):
            raise UserError(f"there is no recording {number}: there are {len(self.loaded.recordings)}")
        found = self.loaded.recordings[number]
        if self._footage is not None and self._footage.recording == found:
            return self._footage
        return Footage(found, self.loaded.config, self.loaded.clock)

    def _checked(self, action: Sequence[int] | None) -> ndarray:
        """An action as numbers, (k,)."""
        space = self.loaded.space
        if action is None:
            return np.array(space.noop, np.int64)
        is_list = isinstance(action, Sequence) and not isinstance(action, str | bytes)
        if not is_list or len(action) != len(space.sizes):
            raise UserError(f"an action of {space.name} is a list of {len(space.sizes)} numbers")
        for value, component in zip(action, space.components, strict=True):
            if type(value) is not int or not 0 <= value < component.size:
                raise UserError(f"{component.name} is {str(value)[:40]}; it must be a number from 0 to {component.size - 1}")
        return np.array(action, np.int64)

    @property
    def _history(self) -> History | None:
        return None if self.loaded.newest is None else self.loaded.newest.history


def _drift(now: Moment) -> dict[str, float | None]:
    """Mean squared distances in normalised latents: dream and reality now, and reality at the fork and now."""
    if now.real is None:
        return {"dream": None, "copy": None}
    real = now.real.past[-1].latents
    apart = {"dream": now.fork.state.latents[1], "copy": now.fork.latents}
    return {name: round(float((latents - real).square().mean()), 6) for name, latents in apart.items()}


def _whole(name: str, value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**53:
        raise UserError(f"{name} is {str(value)[:40]}; it must be a whole number from 0 on")
    return value
