"""What a page is told: what it has to know at first, and what the agents say of a moment."""

from __future__ import annotations

from typing import Any

from fastdreamer.config import Config
from fastdreamer.evaluation.payments import tasks_of
from fastdreamer.play.course import AGENTS
from fastdreamer.play.loaded import Loaded
from fastdreamer.play.moment import Moment
from fastdreamer.play.thoughts import DIGITS
from fastdreamer.recordings.actions import BUTTON, Component
from fastdreamer.recordings.writer import FRAMES_PER_SECOND


def describe(loaded: Loaded, records: bool, rewinds: int) -> dict[str, Any]:
    """The world, its actions and players, as JSON can hold them.

    Args:
        loaded: what is played with.
        records: whether what is played is recorded.
        rewinds: the most steps that can be taken back.
    """
    agent = loaded.newest
    tasks = tasks_of(loaded.config)
    names = [task.name for task in tasks] if len(tasks) > 1 else [f"task {i}" for i in range(loaded.config.task_count)]
    return {
        "title": loaded.title,
        "card": None if loaded.card is None else dict(loaded.card),
        "c": loaded.clock.frames_per_latent,
        "fps": FRAMES_PER_SECOND,
        "size": [loaded.size, loaded.size],
        "components": [_component(component) for component in loaded.space.components],
        "players": [
            "you",
            *(f"phase{phase}" for phase in sorted(loaded.agents)),
            "random",
            *(["recorded"] if loaded.recordings else []),
        ],
        "denoising": loaded.denoising,
        "tasks": names if agent is not None and agent.tasks is not None else [],
        "has_environment": loaded.has_environment,
        "recordings": [
            {"name": recording.name, "steps": steps}
            for recording, steps in zip(loaded.recordings, loaded.recording_steps, strict=True)
        ],
        "records": records,
        "rewinds": rewinds,
        "notes": list(loaded.notes),
    }


def _component(component: Component) -> dict[str, Any]:
    kind = "camera" if component.camera_axis is not None else "binary" if component.labels == BUTTON else "choice"
    return {"name": component.name, "labels": list(component.labels), "kind": kind, "noop": component.noop}


def thoughts_of(now: Moment, who: str, config: Config) -> dict[str, Any]:
    """What the agents say, at the real state where there is one and at the dream's; None: they were not asked yet."""
    minds, tasks = now.minds or {}, tasks_of(config)
    where, phase = "real" if now.real is not None else "dream", AGENTS.get(who, max(minds, default=0))
    task = tasks[min(now.task, len(tasks) - 1)].name
    return {
        "agent": {str(number): sides[where].said for number, sides in minds.items()} if now.is_whole else None,
        "dreamed_agent": minds[phase]["dream"].said if phase in minds else None,
        "paid": None if now.paid is None else round(now.paid[task], DIGITS),
        "return": None if now.returns is None else round(now.returns[task], DIGITS),
    }
