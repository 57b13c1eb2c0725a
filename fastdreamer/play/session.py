"""A session of play: everything that a page can ask for, without a page. Not for several threads at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from numpy import ndarray

from fastdreamer.errors import UserError
from fastdreamer.evaluation.payments import tasks_of
from fastdreamer.play.arguments import action_of, check_choice, whole
from fastdreamer.play.chance import Chance
from fastdreamer.play.course import RECORDED, YOU, Course
from fastdreamer.play.describe import describe, thoughts_of
from fastdreamer.play.dream import Dream
from fastdreamer.play.film import Footage
from fastdreamer.play.fresh_worlds import Worlds
from fastdreamer.play.loaded import Loaded
from fastdreamer.play.moment import Moment, View
from fastdreamer.play.reality import DIED, LONGEST, Arrived, CrafterReality, Reality, RecordedReality, replayed
from fastdreamer.play.recorder import Recorder
from fastdreamer.play.urgency import IsSuperseded, Superseded, never

REWINDS = 128
"""Steps that can be taken back."""
EAGER_STEPS = 1
"""Denoising steps that a session begins with where a pass takes milliseconds; a page can choose more."""
STRIP, STRIP_SIZE = 48, 64
END_OF_RECORDING = "end of recording"


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
                f"{loaded.config.data.env} has no environment here, and no recording that the run holds out is there "
                "to begin from: put its recordings back, or play a Crafter run"
            )
        if record is not None and not loaded.has_environment:
            raise UserError("nothing can be recorded: there is no environment here, and a dream is no recording")
        self.loaded, self.seed = loaded, seed
        self.who, self.greedy, self.task = YOU, False, loaded.config.evaluation.task if loaded.config.task_count else 0
        self._dream = Dream(loaded)
        if loaded.backend.device.type == "cpu" and not loaded.backend.compiles:
            self._dream.denoising = EAGER_STEPS
        self._worlds = Worlds(loaded.taken, record)
        self._recorder = Recorder(record, LONGEST) if record is not None else None
        self._episode = 0
        self._moments: deque[Moment] = deque(maxlen=REWINDS + 1)
        self._course: Course | None = None
        self.start() if loaded.has_environment else self.start(recording=0)

    def describe(self) -> dict[str, Any]:
        """What a page has to know at first, as JSON can hold it."""
        return describe(self.loaded, self._recorder is not None, REWINDS)

    def view(self) -> View:
        """The moment as it stands; nothing moves."""
        now = self._moments[-1]
        said = now.said | {
            "who": self.who,
            "greedy": self.greedy,
            "denoising": self._dream.denoising,
            "task": self.task,
            "drift": now.drift,
            **thoughts_of(now, self.who, self.loaded.config),
            "over": self._over(now),
            "rewindable": len(self._moments) - 1,
            "episode": self._here.reality.name,
            "recording": self._recorder.name if self._recorder is not None else None,
        }
        return View(None if now.real is None else now.real.shown, now.dreamt, said)

    def step(self, action: Sequence[int] | None = None) -> View:
        """One latent step of c frames, in the real environment and in the dream.

        An episode that is over stays as it is.

        Args:
            action: a label's number a component, held for all c frames; None: the no-op. It counts where you play.

        Raises:
            UserError: if the action is none, or if what was played cannot be recorded: the step is taken then.
        """
        self.step_in_sight(action)
        return self.complete()

    def step_in_sight(self, action: Sequence[int] | None = None, superseded: IsSuperseded = never) -> View:
        """The same step as far as it takes to show its pictures; `complete` does the rest.

        Raises:
            Superseded: if `superseded()` before the dream has moved; then nothing has.
            UserError: see `step`.
        """
        own, now = action_of(self.loaded.space, action), self._whole()
        if self._over(now) is not None:
            return self.view()
        try:
            chunk, known = self._here.chosen(now, self.who, self.greedy, own)
            after, arrived = self._here.after(now, chunk, known, self.task, superseded)
        except BaseException:
            self._here.restore(now)
            raise
        self._moments.append(after)
        self._recorded(after, arrived)
        return self.view()

    def complete(self, superseded: IsSuperseded = never) -> View:
        """What the encoder sees of the newest moment, and what the agents think of it.

        Raises:
            Superseded: if `superseded()` between the two; the next call goes on.
        """
        self._whole(superseded)
        return self.view()

    def rewind(self, steps: int) -> View:
        """Go back, as far as moments are kept; the same actions then lead to the very frames again.

        Raises:
            UserError: if `steps` is no whole number from 0 on.
        """
        for _ in range(back := min(whole("steps", steps), len(self._moments) - 1)):
            self._moments.pop()
        if back:
            now = self._whole()
            self._here.restore(now)
            if now.task != self.task:
                self._moments[-1] = self._here.rethought(now, self.task)
            if self._recorder is not None:
                self._recorder.cut(now.played)
        return self.view()

    def fork(self) -> View:
        """Let the dream begin again from the real state now; where the real episode is over, it goes on alone.

        Raises:
            UserError: if nothing is known of the real state now.
        """
        if self._moments[-1].real is None:
            raise UserError("there is no real state here to dream on from: rewind to one, or start anew")
        self._moments[-1] = self._here.forked(self._whole(), self.task)
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
        footage, number = None, whole("step", step)
        if recording is not None and seed is not None:
            raise UserError("start from a world or from a recording, not from both")
        if recording is not None:
            footage = self._opened(recording)
            if number > footage.last:
                raise UserError(f"recording {footage.name} has the steps 0 to {footage.last}, and no step {number}")
        elif not self.loaded.has_environment:
            raise UserError(f"{self.loaded.config.data.env} has no environment here: start from a recording")
        elif number:
            raise UserError("a world begins at its first step; only a recording has others to start from")
        reality, tasks = None, [task.name for task in tasks_of(self.loaded.config)]
        if footage is None:
            reality = CrafterReality(self._worlds.choose(seed), tasks)
        elif self.loaded.has_environment:
            reality = replayed(footage, tasks, number)
        if footage is not None and reality is None:
            self._begin(RecordedReality(footage, tasks, number), footage, number)
        elif reality is not None:
            self._begin(reality, footage, number)
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
        check_choice(self.describe(), who, greedy, denoising, task)
        if who == RECORDED and self._here.footage is None:
            raise UserError("this world has no recorded actions: start from a recording first")
        if denoising is not None:
            self._dream.denoising = denoising
        self.who = self.who if who is None else who
        self.greedy = self.greedy if greedy is None else greedy
        if task is not None and task != self.task:
            self._moments[-1] = self._here.rethought(self._whole(), task)
            self.task = task
        return self.view()

    def filmstrip(self, recording: int) -> tuple[list[int], UInt8[ndarray, "f h w 3"]]:
        """Steps spread over a held-out recording, and the last frame of each, to pick a start from.

        Raises:
            UserError: if there is no such recording, or it cannot be read.
        """
        return self._opened(recording).filmstrip(STRIP, min(STRIP_SIZE, self.loaded.size))

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

    def _whole(self, superseded: IsSuperseded = never) -> Moment:
        """The newest moment, seen and thought of."""
        self._moments[-1] = now = self._here.seen(self._moments[-1])
        if now.minds is None:
            if superseded():
                raise Superseded
            self._moments[-1] = now = self._here.rethought(now, now.task)
        return now

    @property
    def _here(self) -> Course:
        assert self._course is not None
        return self._course

    def _begin(self, reality: Reality, footage: Footage | None, step: int) -> None:
        """Begin an episode; if anything fails, the one before is still there."""
        before = self._moments[-1] if self._moments else None
        course = Course(self.loaded, self._dream, reality, footage, Chance(self.seed, self._episode))
        try:
            first = course.first(step, self.task)
            self._finish()
        except BaseException:
            if before is not None:
                self._here.restore(before)
            raise
        self._episode += 1
        self._course = course
        self._moments.clear()
        self._moments.append(first)
        if self.who == RECORDED and footage is None:
            self.who = YOU
        if self._recorder is not None and isinstance(reality, CrafterReality) and footage is None:
            self._recorder.begin(reality.seed, reality.frame, reality.counters)

    def _over(self, now: Moment) -> str | None:
        footage = self._here.footage
        if now.over is not None or self.who != RECORDED or footage is None:
            return now.over
        return None if len(footage.chunk(now.step + 1)) else END_OF_RECORDING

    def _recorded(self, after: Moment, arrived: Arrived | None) -> None:
        reality = self._here.reality
        if self._recorder is None or arrived is None or not isinstance(reality, CrafterReality):
            return
        assert after.chunk is not None
        count = arrived.count
        self._recorder.add(arrived.frames[:count], after.chunk[:count], arrived.rewards, arrived.counters, self.who)
        if after.over is not None:
            self._recorder.write(after.over == DIED, reality.unlocked)

    def _finish(self) -> None:
        if self._recorder is not None and self._course is not None:
            reality = self._course.reality
            self._recorder.finish(reality.unlocked if isinstance(reality, CrafterReality) else ())

    def _opened(self, recording: int) -> Footage:
        if (number := whole("recording", recording)) >= len(self.loaded.recordings):
            raise UserError(f"there is no recording {number}: there are {len(self.loaded.recordings)}")
        found = self.loaded.recordings[number]
        if self._course is not None and self._course.footage is not None and self._course.footage.recording == found:
            return self._course.footage
        return Footage(found, self.loaded.config, self.loaded.clock)
