"""A run directory: where its parts are, and loading its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastdreamer.config import Config, load_config
from fastdreamer.errors import UserError
from fastdreamer.run.checkpoint import Checkpoint, load_checkpoint, steps_in
from fastdreamer.run.compatibility import check_architecture
from fastdreamer.run.kept_config import run_config
from fastdreamer.run.run_files import CONFIG, checkpoints_of, recordings_of, store_of
from fastdreamer.settings import dump_config
from fastdreamer.system.advice import command


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run; nothing is created by asking."""

    path: Path

    def config(self) -> Config:
        """The run's resolved configuration.

        Raises:
            UserError: if the directory is no run, or its configuration is not what was written.
        """
        return load_config(str(run_config(self.path)))

    def write_config(self, config: Config) -> None:
        """Keeps the resolved configuration with the run."""
        dump_config(config, self.path / CONFIG)

    def recordings(self, config: Config) -> Path:
        return recordings_of(config, self.path)

    def store(self, config: Config) -> Path:
        return store_of(config, self.path)

    def checkpoints(self, phase: int) -> Path:
        return checkpoints_of(self.path, phase)

    def has_phase(self, phase: int) -> bool:
        return bool(steps_in(self.checkpoints(phase)))

    def trained_phases(self) -> list[int]:
        """The phases that have a checkpoint.

        Raises:
            UserError: if none has.
        """
        if trained := [phase for phase in (1, 2, 3) if self.has_phase(phase)]:
            return trained
        train = command("train", run_dir=self.path, phase=1)
        raise UserError(f"nothing is trained in {self.path}; train it first with: {train}")

    def step(self, phase: int) -> int:
        """Step of a phase's newest checkpoint."""
        return int(steps_in(self.checkpoints(phase))[-1].name.removeprefix("step-"))

    def load(self, phase: int, config: Config) -> Checkpoint:
        """A phase's newest checkpoint, checked against the configuration.

        Raises:
            UserError: if there is none, it is damaged, or it belongs to another configuration.
        """
        if not self.has_phase(phase):
            train = command("train", run_dir=self.path, phase=phase)
            raise UserError(f"{self.path} has no phase {phase} checkpoint; train it first with: {train}")
        checkpoint = load_checkpoint(self.checkpoints(phase))
        if checkpoint.phase != phase:
            raise UserError(f"{checkpoint.path} is a checkpoint of phase {checkpoint.phase}: put back what was there")
        check_architecture(checkpoint, config)
        return checkpoint
