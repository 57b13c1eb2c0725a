"""What a page has to know at first."""

from __future__ import annotations

from typing import Any

from fastdreamer.evaluation.payments import tasks_of
from fastdreamer.play.loaded import Loaded
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
