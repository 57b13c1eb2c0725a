"""The configuration that a command works with. Reading settings is imported where it is done: help needs none of it."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastdreamer.config import Config

DEFAULT_PRESET = "crafter"


def resolve(arguments: Namespace) -> Config:
    """The configuration: --config, else the run's own, else the default preset where no run is named."""
    from fastdreamer.config import load_config
    from fastdreamer.system.folders import anchored

    return anchored(load_config(config_name(arguments), arguments.overrides))


def resolve_for_run(arguments: Namespace) -> Config:
    """Resolve as `resolve` does, for a command that goes on with a run: held against the run's own, and announced.

    Raises:
        UserError: if a setting differs that a run keeps.
    """
    from fastdreamer.run.kept_config import check_run

    config = resolve(arguments)
    check_run(arguments.run_dir, config)
    announce(config)
    return config


def config_name(arguments: Namespace) -> str:
    """The preset or file that `resolve` reads."""
    from fastdreamer.run.kept_config import run_config

    run_dir = getattr(arguments, "run_dir", None)
    name = arguments.config
    if name is None and run_dir is not None:
        name = str(run_config(run_dir))
    return name or DEFAULT_PRESET


def announce(config: Config) -> None:
    """Print the one choice of device and precision, and which configuration this is."""
    from fastdreamer.device import choose_device, use_spare_cores
    from fastdreamer.settings import config_hash

    use_spare_cores()
    print(f"device: {choose_device(config)}; configuration {config_hash(config)}", flush=True)
