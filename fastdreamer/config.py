"""Every setting of FastDreamer, as frozen dataclasses that check their own bounds.

A configuration file is YAML with the sections of `Config`. The files of `settings/` declare them, topic by topic, and
explain every default; sources are the Dreamer 4 paper (arXiv:2509.24527, "P" there).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastdreamer.settings import read_settings
from fastdreamer.settings.data_settings import DataConfig, RecordConfig
from fastdreamer.settings.evaluation_settings import EvaluationConfig, StudyConfig
from fastdreamer.settings.fields import SEED_MOST, section, setting
from fastdreamer.settings.model_settings import DynamicsConfig, ForcingConfig, HeadsConfig
from fastdreamer.settings.tokenizer_settings import EnginesConfig, TokenizerConfig
from fastdreamer.settings.training_settings import (
    CloningConfig,
    ImaginationConfig,
    RanksConfig,
    SamplingConfig,
    TasksConfig,
    TokenizerFitConfig,
    TrainConfig,
)

__all__ = [
    "CloningConfig", "Config", "DataConfig", "DynamicsConfig", "EnginesConfig", "EvaluationConfig", "ForcingConfig",
    "HeadsConfig", "ImaginationConfig", "RanksConfig", "RecordConfig", "SamplingConfig", "StudyConfig", "TasksConfig",
    "TokenizerConfig", "TokenizerFitConfig", "TrainConfig", "load_config",
]  # fmt: skip


@dataclass(frozen=True)
class Config:
    """All of it. `device` and `precision` are chosen once at start-up and printed."""

    seed: int = setting(0, at_least=0, at_most=SEED_MOST)  # the seed of everything that training draws
    # The device it runs on; auto: a GPU where there is one.
    device: str = setting("auto", choices=("auto", "cpu", "cuda"), free="always")
    # The arithmetic of training; auto: bf16 where the machine has instructions for it, else fp32.
    precision: str = setting("auto", choices=("auto", "fp32", "bf16"))
    # Whether torch.compile lies under the training steps and the imagination. auto: on a GPU; on a CPU a phase begins
    # eagerly, and is compiled after three steps where that saves more over the steps left than it takes.
    compile: str = setting("auto", choices=("auto", "on", "off"), free="always")
    # What a run may take, in GiB; 0: the GPU's own (no limit on a CPU).
    memory_gb: float = setting(0.0, at_least=0.0, free="always")
    data: DataConfig = section(DataConfig)
    record: RecordConfig = section(RecordConfig, free="always")
    tokenizer: TokenizerConfig = section(TokenizerConfig)
    engines: EnginesConfig = section(EnginesConfig, free="always")
    sampling: SamplingConfig = section(SamplingConfig)
    tasks: TasksConfig = section(TasksConfig, free="before cloning")
    dynamics: DynamicsConfig = section(DynamicsConfig)
    forcing: ForcingConfig = section(ForcingConfig)
    heads: HeadsConfig = section(HeadsConfig)
    imagination: ImaginationConfig = section(ImaginationConfig)
    tokenizer_fit: TokenizerFitConfig = section(TokenizerFitConfig)
    decoder: TrainConfig = section(TrainConfig)  # pooled latents -> frames, for pictures only
    phase1: TrainConfig = section(TrainConfig)
    phase2: CloningConfig = section(CloningConfig)
    phase3: TrainConfig = section(TrainConfig)
    ranks: RanksConfig = section(RanksConfig, free="always")
    evaluation: EvaluationConfig = section(EvaluationConfig, free="always")
    study: StudyConfig = section(StudyConfig, free="always")

    def __post_init__(self) -> None:
        dynamics, imagination = self.dynamics, self.imagination
        reach = imagination.start_context + imagination.horizon
        if dynamics.context == dynamics.window and reach > dynamics.window:
            raise ValueError(
                f"imagination.start_context + imagination.horizon is {reach}, past the trained window "
                f"{dynamics.window}: lower them, or train with dynamics.context below dynamics.window"
            )
        if self.sampling.short_window >= dynamics.window:
            raise ValueError(
                f"sampling.short_window {self.sampling.short_window} must be below dynamics.window {dynamics.window}; "
                "0 is for long crops alone"
            )
        if self.evaluation.context >= dynamics.window:
            raise ValueError(f"evaluation.context {self.evaluation.context} must be below the window {dynamics.window}")
        if self.heads.readout == "agent_tokens" and dynamics.agent_tokens == 0:
            raise ValueError("heads.readout is agent_tokens but dynamics.agent_tokens is 0")
        if imagination.merge_commit == "on" and self.heads.readout == "agent_tokens":
            raise ValueError(
                "imagination.merge_commit is on but heads.readout is agent_tokens, which are read at the commit: "
                "set it to auto"
            )
        if len(self.tasks.names) > 1 and dynamics.tasks:
            raise ValueError(
                f"dynamics.tasks is {dynamics.tasks}, but tasks.names names {len(self.tasks.names)} tasks, which have "
                "TASK tokens of their own: set dynamics.tasks to 0"
            )
        if 0 < self.task_count <= self.evaluation.task:
            raise ValueError(f"evaluation.task is {self.evaluation.task}; there are {self.task_count} tasks")
        if self.evaluation.execute > self.tokenizer.frames_per_latent:
            raise ValueError(
                f"evaluation.execute {self.evaluation.execute} exceeds the chunk of {self.tokenizer.frames_per_latent}"
            )

    @property
    def task_count(self) -> int:
        """TASK tokens: one a named task where there are several, else dynamics.tasks; 0 where nothing is told apart."""
        return len(self.tasks.names) if len(self.tasks.names) > 1 else self.dynamics.tasks

    def phase(self, number: int) -> TrainConfig:
        """The training settings of phase 1, 2 or 3."""
        return {1: self.phase1, 2: self.phase2, 3: self.phase3}[number]

    def with_phase(self, number: int, train: TrainConfig) -> Config:
        """The same configuration with other training settings for phase 1, 2 or 3."""
        changed: dict[str, Any] = {f"phase{number}": train}
        return replace(self, **changed)


def load_config(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a preset (`crafter`) or a YAML file, with overrides such as `phase1.steps=100` on top.

    A file may say `base: NAME_OR_PATH` to start from another one; a path there is relative to the file.

    Raises:
        UserError: for a missing or broken file, an unknown key, a wrong type, or a value out of bounds.
    """
    return read_settings(Config, name_or_path, overrides)
