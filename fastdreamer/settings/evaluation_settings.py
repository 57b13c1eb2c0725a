"""Settings of what measures a run: evaluation, and studies over seeds."""

from __future__ import annotations

from dataclasses import dataclass

from fastdreamer.settings.fields import SEED_MOST, setting


@dataclass(frozen=True)
class EvaluationConfig:
    """`eval`: closed loop in the real environment, open loop on held-out episodes."""

    episodes: int = setting(30, at_least=1)  # worlds that every policy plays
    max_steps: int = setting(300, at_least=1)  # actions until an episode is cut off
    # The first world; the recordings' worlds count from record.seed.
    seed: int = setting(1_000_000, at_least=0, at_most=SEED_MOST)
    execute: int = setting(0, at_least=0)  # actions of a chunk that are executed; 0 means the whole chunk
    workers: int = setting(0, at_least=0)  # processes that play; 0: one a core for Crafter, one for Minecraft
    crops: int = setting(64, at_least=1)  # held-out windows for the evaluation of the world model
    samples: int = setting(8, at_least=1)  # imagined futures of each window
    context: int = setting(4, at_least=1)  # real steps before the open loop
    # The Minecraft simulator; auto: what is installed.
    backend: str = setting("auto", choices=("auto", "minestudio", "minerl"))
    minerl_task: str = ""  # the `minerl` package's name of the task to play; empty: the one of data.env
    leave_out: tuple[str, ...] = ()  # action components kept at their no-op because the simulator has none of them
    task: int = setting(0, at_least=0)  # the TASK token that acts, where dynamics.tasks is above 0
    bootstrap: int = setting(2000, at_least=100)  # resamples behind an interval


@dataclass(frozen=True)
class StudyConfig:
    """`study`: a recipe over seeds, with controls."""

    real_games: int = setting(32, at_least=1)  # games at once where the real game stands in place of the dream
