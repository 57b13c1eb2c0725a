"""`fastdreamer study`: one recipe over seeds with its controls; whatever stops it, the same command goes on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fastdreamer.config import Config
from fastdreamer.device import choose_device
from fastdreamer.errors import UserError
from fastdreamer.evaluation.closed_loop import check_worlds
from fastdreamer.evaluation.evaluate import evaluate_open_loop, evaluation_seeds, recorded_seeds
from fastdreamer.evaluation.payments import tasks_of
from fastdreamer.latents.store import LatentStore
from fastdreamer.run import run_files
from fastdreamer.run.directory import RunDirectory
from fastdreamer.run.lock import run_lock
from fastdreamer.run.run_files import RunFile
from fastdreamer.study.controls import RealGame, ShuffledActions, ShuffledRewards
from fastdreamer.study.parts import Parts, fingerprint
from fastdreamer.study.play import Arm, acting_encoder, play_arms
from fastdreamer.study.results import REAL_GAME, SHUFFLED_ACTIONS, SHUFFLED_REWARDS, Seed, demonstrated, summarise
from fastdreamer.study.study_page import write_page
from fastdreamer.system.json_files import ANYTHING, Every
from fastdreamer.training.build import Kind

CONTROLS: dict[str, Kind] = {SHUFFLED_REWARDS: ShuffledRewards, SHUFFLED_ACTIONS: ShuffledActions}
# What training does not depend on; `study` is the real game's alone.
PLAYING = ("evaluation", "study")


def run_study(
    config: Config, folder: Path, seeds: int, arms: Sequence[str], say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Trains and plays every seed; writes study.json and study.html into `folder`, anew after each seed.

    Recordings and latent store are made once, in folder/shared; seed i has a run directory folder/seed-i of its own,
    with controls under it, and worlds of its own, counted from `seed` and `evaluation.seed`. Gates between phases are
    passed and printed, as in the demo.

    Returns:
        What study.json holds; `red` counts the verdicts that are.

    Raises:
        UserError: if the environment cannot be played here, or a part refuses its input.
    """
    if config.data.env != "crafter":
        raise UserError(f"a study plays crafter itself; {config.data.env} recordings train with train, and eval plays")
    if seeds < 1:
        raise UserError(f"--seeds is {seeds}; it must be at least 1")
    if REAL_GAME in arms and config.heads.readout != "latents":
        raise UserError(f"heads.readout is {config.heads.readout}, for which {REAL_GAME} is not made: leave it out")
    folder.mkdir(parents=True, exist_ok=True)
    RunDirectory(folder).write_config(config)
    study = _Study(config, folder.absolute(), Parts(folder / "parts", say), tuple(arms))
    study.share()
    done: list[Seed] = []
    for number in range(seeds):
        with run_lock(folder / f"seed-{number}"):
            done.append(study.seed(number))
        result = summarise(config, done, seeds, study.beyond(seeds), study.demonstrated(), study.parts.seconds())
        RunFile("study.json", Every(ANYTHING)).write(folder, result)
        write_page(result, config, folder / "study.html")
    return result | {"page": str(folder / "study.html")}


@dataclass(frozen=True)
class _Study:
    config: Config
    folder: Path
    parts: Parts
    arms: tuple[str, ...]

    @property
    def shared(self) -> Config:
        """The recipe, with the folders that all seeds read."""
        data, own = self.config.data, self.folder / "shared"
        recordings, store = data.recordings or str(own / "recordings"), data.store or str(own / "store")
        return replace(self.config, data=replace(data, recordings=recordings, store=store))

    def share(self) -> None:
        """Records and encodes, but for what the configuration names."""
        from fastdreamer.encoding.pipeline import encode_recordings
        from fastdreamer.envs.record import record

        given, config = self.config.data, self.shared
        recordings, store = Path(config.data.recordings), Path(config.data.store)
        if not (given.recordings or given.store):
            self.parts.run("record", fingerprint(config, "record", "data"), partial(record, config, recordings))
        if not given.store:
            made_with = fingerprint(config, "record", "data", "tokenizer")
            self.parts.run("encode", made_with, partial(encode_recordings, config, recordings, store))

    def seed(self, number: int) -> Seed:
        """Trains, measures and plays one seed."""
        config = seed_config(self.shared, number)
        name, device = f"seed-{number}", choose_device(config).device
        run = RunDirectory(self.folder / name)
        check_worlds(evaluation_seeds(config), recorded_seeds(config, run))
        run.write_config(config)
        for phase in (1, 2, 3):
            self._train(config, name, run, phase)
        arms = {"random": Arm("random", run.path, 0), "phase2": Arm("phase2", run.path, 2)}
        arms["phase3"] = Arm("phase3", run.path, 3)
        for control in (arm for arm in self.arms if arm not in arms):
            own = RunDirectory(run.path / "controls" / control)
            own.write_config(config)
            self._control(config, f"{name}/{control}", own, control, run.checkpoints(2))
            arms[control] = Arm(control, own.path, 3)
        measure = partial(self._measure, config, run, device)
        world_model = self.parts.run(f"{name}/world_model", fingerprint(config), measure, again=True)
        run_files.WORLD_MODEL.write(run.path, world_model)
        played = play_arms(config, self.parts, name, [arms[arm] for arm in self.arms], device)
        return Seed(config.seed, evaluation_seeds(config), played, world_model)

    def beyond(self, seeds: int) -> list[str]:
        """Seeds that were played here before and are not among the first `seeds`."""
        names = (path.name for path in self.folder.glob("seed-*"))
        return sorted(n for n in names if re.fullmatch(r"seed-\d+", n) and int(n.removeprefix("seed-")) >= seeds)

    def demonstrated(self) -> dict[str, Any]:
        """What the recordings earned, by task."""
        config = self.shared
        store = LatentStore.open(config.data.store, memory_limit_gb=config.data.memory_limit_gb)
        return demonstrated(config, store)

    def _measure(self, config: Config, run: RunDirectory, device: torch.device) -> dict[str, Any]:
        store = LatentStore.open(config.data.store, memory_limit_gb=config.data.memory_limit_gb)
        return evaluate_open_loop(config, run, [1, 2, 3], store, device)

    def _train(self, config: Config, name: str, run: RunDirectory, phase: int) -> Mapping[str, Any]:
        from fastdreamer.tools.diagnosis.gates import Gates
        from fastdreamer.tools.planning.run_memory import RunMemory
        from fastdreamer.training.train import train

        def work() -> dict[str, Any]:
            again = run.has_phase(phase)
            return train(config, run.path, phase, again, None, RunMemory(), Gates(force=True), draws=False)

        return self.parts.run(f"{name}/phase{phase}", fingerprint(config, without=PLAYING), work)

    def _control(self, config: Config, name: str, run: RunDirectory, control: str, parent: Path) -> Mapping[str, Any]:
        from fastdreamer.envs.games import Games
        from fastdreamer.tools.planning.run_memory import RunMemory
        from fastdreamer.training.train import train

        def work() -> dict[str, Any]:
            with ExitStack() as stack:
                made: Kind
                if control == REAL_GAME:
                    count, workers = config.study.real_games, config.evaluation.workers
                    games = stack.enter_context(Games(count, workers=workers))
                    encoder = acting_encoder(config, count, choose_device(config).device)
                    made = partial(RealGame, games=games, encoder=encoder, tasks=[t.name for t in tasks_of(config)])
                else:
                    made = CONTROLS[control]
                again = run.has_phase(3)
                return train(config, run.path, 3, again, None if again else parent, RunMemory(), imagination=made)

        without = ("evaluation",) if control == REAL_GAME else PLAYING
        return self.parts.run(name, fingerprint(config, without=without), work)


def seed_config(config: Config, number: int) -> Config:
    """The configuration of a seed: its own seed, and worlds that no other seed plays."""
    evaluation = config.evaluation
    worlds = replace(evaluation, seed=evaluation.seed + number * evaluation.episodes)
    return replace(config, seed=config.seed + number, evaluation=worlds)
