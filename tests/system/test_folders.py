"""Folders with a `~`, accounts without a home, and names of engines that do not depend on the current folder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fastdreamer import cli, commands
from fastdreamer.commands.command import resolve
from fastdreamer.config import load_config
from fastdreamer.errors import UserError
from fastdreamer.run.kept_config import check_run, kept_configuration
from fastdreamer.tokenizer.engines import installed as engines
from fastdreamer.tokenizer.engines.engine_names import engine_root, identity


@pytest.fixture
def homeless(monkeypatch):
    """Makes this an account without a home directory."""

    def fail(path: Path) -> Path:
        if str(path).startswith("~"):
            raise RuntimeError("Could not determine home directory.")
        return path

    monkeypatch.setattr(Path, "expanduser", fail)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


def test_an_account_without_a_home_runs_the_tokenizer_without_engines(homeless, tmp_path):
    tokenizer: Any = SimpleNamespace(device=torch.device("cpu"))
    assert engines._best(load_config("debug"), tokenizer, "encoder") is None
    with pytest.raises(UserError, match="no home directory, so there is no cache for engines: name a folder with"):
        engines._best(load_config("debug", ["engines.backend=aot-inductor"]), tokenizer, "encoder")
    named = load_config("debug", [f"engines.directory={tmp_path}"])
    assert engine_root(named) == tmp_path


def test_a_relative_cache_folder_is_ignored_as_its_specification_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert engine_root(load_config("debug")) == tmp_path / ".cache" / "fastdreamer" / "engines"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert engine_root(load_config("debug")) == tmp_path / "c" / "fastdreamer" / "engines"


@pytest.mark.parametrize(
    "words", ["encode --recordings ~/x --store s", "encode --store=~/x", "train --phase 1 --run-dir ~"]
)
def test_a_home_that_is_not_there_is_a_mistake_on_the_command_line(homeless, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main([*words.split(), "--config", "debug"])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count("\n") == 1 and "no home directory" in err
    assert not list(tmp_path.iterdir())


def test_no_command_makes_a_folder_called_tilde(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setitem(commands.COMMANDS, "encode", lambda arguments: seen.append(arguments) or {})
    assert cli.main(["encode", "--store=~/s", "--recordings", "~/r", "--run-dir=~/run", "--config=~/c.yaml"]) == 0
    home = tmp_path / "home"
    assert (seen[0].store, seen[0].recordings, seen[0].run_dir) == (home / "s", home / "r", home / "run")
    with pytest.raises(UserError, match=f"configuration file {home}/c.yaml does not exist"):
        resolve(seen[0])
    arguments = cli.build_parser().parse_args(["plan", "--config", "debug"])
    arguments.overrides = ["data.store=~/s"]
    assert resolve(arguments).data.store == str(home / "s")


def test_a_run_is_found_from_every_folder(monkeypatch, tmp_path):
    """The paths that its configuration keeps are whole; written another way they are no other configuration."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"

    def config(*overrides: str):
        arguments = cli.build_parser().parse_args(["train", "--phase=1", f"--run-dir={run}", "--config=debug"])
        arguments.overrides = list(overrides)
        return resolve(arguments)

    with kept_configuration(run, config("data.store=my store", "tokenizer.weights=w/vae")):
        pass
    saved = load_config(run / "config.yaml")
    assert saved.data.store == str(tmp_path / "my store") and saved.tokenizer.weights == str(tmp_path / "w/vae")
    check_run(run, config("data.store=my store", "tokenizer.weights=w/vae"))
    (run / "checkpoints" / "phase1" / "step-00000001").mkdir(parents=True)  # what a configuration binds
    monkeypatch.chdir("/")
    check_run(run, resolve(SimpleNamespace(run_dir=run, config=None, overrides=[])))  # type: ignore
    with pytest.raises(UserError, match="was made with data.store="):
        check_run(run, config("data.store=my store", "tokenizer.weights=w/vae"))


def test_engines_are_found_however_the_weights_are_written(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "engines"
    root.mkdir()

    def name(weights: str) -> str:
        return identity(load_config("debug", [f"tokenizer.weights={weights}", f"engines.directory={root}"]))

    relative = name("w/vae")
    (root / f"{relative}.encoder.fp32.aot-inductor.cpu").mkdir()
    assert name(str(tmp_path / "w/vae")) == name("w/vae") == relative
    absolute = name("/elsewhere/vae")
    assert absolute != relative and name("other/vae") != relative
