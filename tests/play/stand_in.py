"""A session that needs no model: colours that move, all of which depends on the actions alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastdreamer.errors import UserError
from fastdreamer.play.urgency import IsSuperseded, Superseded, never
from fastdreamer.recordings.actions import action_space

PLAYERS = ("you", "phase2", "phase3", "random", "recorded")
SIZE = 64


@dataclass(frozen=True)
class View:
    real: Any
    dream: Any
    said: dict[str, Any]


class StandIn:
    """What `fastdreamer.play.session.Session` offers, made up."""

    def __init__(self, space: str = "crafter", c: int = 1, has_environment: bool = True, step_s: float = 0.0) -> None:
        self.components = action_space(space).components
        self.c, self.has_environment, self.step_s = c, has_environment, step_s
        self.chosen: dict[str, Any] = {"who": "you", "greedy": False, "denoising": 1, "task": 0}
        self.acted: list[tuple[int, ...] | None] = []
        self.closed = self.over_at = 0
        self.begin("world 0")

    def begin(self, episode: str) -> None:
        self.episode, self.path, self.forked, self.is_whole = episode, [(0, 0)], 0, True

    def describe(self) -> dict[str, Any]:
        def kind(component: Any) -> str:
            if component.camera_axis is not None:
                return "camera"
            return "binary" if component.labels == ("0", "1") else "choice"

        return {
            "title": "a stand-in that moves colours", "card": {"data": "made up", "steps": 100}, "c": self.c, "fps": 10,
            "size": [SIZE, SIZE], "players": list(PLAYERS), "denoising": [1, 2, 4], "tasks": ["wood"],
            "components": [
                {"name": one.name, "labels": list(one.labels), "kind": kind(one), "noop": one.noop}
                for one in self.components
            ],
            "has_environment": self.has_environment, "recordings": [{"name": "held out", "steps": 40}],
            "records": False, "rewinds": 100,
        }  # fmt: skip

    def view(self) -> View:
        """The moment; what agents think of it is not said before `complete`."""
        step = len(self.path) - 1
        y, x = self.path[-1]
        dreamed = step - self.forked
        real = self.picture(y, x, 0)
        dream = self.picture(y, x, 3 * dreamed)
        shares = [np.full(one.size, 1 / one.size) for one in self.components]
        shares[0] = np.exp(np.sin(np.arange(self.components[0].size) + step))
        shares[0] /= shares[0].sum()
        thought = {
            "probabilities": [share.tolist() for share in shares], "reward": 0.2 * np.sin(step / 5),
            "value": 1 + np.cos(step / 9), "continue": 0.95,
        }  # fmt: skip
        dreamt = thought | {"reward": 0.2 * np.sin(step / 5 + 0.02 * dreamed), "continue": 0.9}
        said = {
            "step": step, "dreamed": dreamed, "action": [list(self.acted[-1] or [])] if self.acted else [],
            "drift": {"dream": 0.04 * dreamed**0.5, "copy": 0.09 * dreamed**0.5} if self.has_environment else
            {"dream": None, "copy": None},
            "agent": {"2": thought, "3": thought}, "dreamed_agent": dreamt, "paid": 0.0, "return": float(step // 10),
            "over": "died" if self.over_at and step >= self.over_at else None, "rewindable": min(step, 100),
            "episode": self.episode, "recording": None, **self.chosen,
        }  # fmt: skip
        if not self.is_whole:
            said |= {"drift": {"dream": None, "copy": None}, "agent": None, "dreamed_agent": None}
        return View(real if self.has_environment else None, dream, said)

    def picture(self, y: int, x: int, noise: int) -> Any:
        rows, columns = np.mgrid[:SIZE, :SIZE] // 8
        frame = np.stack([(rows + y) * 24, (columns + x) * 24, (rows + columns) * 12 + noise], -1)
        return np.repeat(frame.astype(np.uint8)[None], self.c, 0)

    def step_in_sight(self, action: Sequence[int] | None, superseded: IsSuperseded = never) -> View:
        time.sleep(self.step_s / 2)
        if superseded():
            raise Superseded
        time.sleep(self.step_s / 2)
        if self.view().said["over"]:
            return self.view()
        if action is not None and (len(action) != len(self.components) or max(action) > 16):
            raise UserError("that is no action here")
        self.acted.append(None if action is None else tuple(action))
        moved = action[0] if action is not None else 0
        if self.chosen["who"] != "you":
            moved = 1 + len(self.path) % 4
        y, x = self.path[-1]
        self.path.append((y + (moved == 4) - (moved == 3), x + (moved == 2) - (moved == 1)))
        self.is_whole = False
        return self.view()

    def complete(self, superseded: IsSuperseded = never) -> View:
        if superseded():
            raise Superseded
        self.is_whole = True
        return self.view()

    def rewind(self, steps: int) -> View:
        steps = min(steps, len(self.path) - 1)
        self.path, self.is_whole = self.path[: len(self.path) - steps], True
        self.forked = min(self.forked, len(self.path) - 1)
        return self.view()

    def fork(self) -> View:
        self.forked, self.is_whole = len(self.path) - 1, True
        return self.view()

    def start(self, seed: int | None = None, recording: int | None = None, step: int = 0) -> View:
        if recording is not None and (recording > 0 or step >= 40):
            raise UserError("there is no such step")
        self.begin(f"world {seed}" if recording is None else "held out")
        self.path = [(step, seed or 0)]
        return self.view()

    def choose(self, who: Any = None, greedy: Any = None, denoising: Any = None, task: Any = None) -> View:
        if who is not None and who not in PLAYERS:
            raise UserError(f"nobody is called {who!r}")
        asked = {"who": who, "greedy": greedy, "denoising": denoising, "task": task}
        self.chosen |= {name: value for name, value in asked.items() if value is not None}
        return self.view()

    def filmstrip(self, recording: int) -> tuple[list[int], Any]:
        if recording > 0:
            raise UserError("there is no such recording")
        steps = list(range(0, 40, 4))
        return steps, np.concatenate([self.picture(step, 0, 0)[:1, ::2, ::2] for step in steps])

    def close(self) -> None:
        self.closed += 1
