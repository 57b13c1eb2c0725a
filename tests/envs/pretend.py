"""A machine that has what Minecraft needs: a `java` that tells its version, an `xvfb-run`, an engine, stand-ins."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from envs.stand_in_minestudio import SOURCE

VARIABLES = ("JAVA_HOME", "DISPLAY", "MINESTUDIO_GPU_RENDER", "MINERL_HEADLESS", "STAND_IN_FAILS", "STAND_IN_ENDS")


class Machine:
    """Its parts, so that a test can take one away."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.bin, self.packages = folder, folder / "bin", folder / "packages"
        self.jar = folder / SOURCE["engine"]
        for made in (self.bin, self.packages, self.jar.parent):
            made.mkdir(parents=True)
        for variable in VARIABLES:
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("PATH", str(self.bin))
        monkeypatch.setenv("MINESTUDIO_DIR", str(folder))
        monkeypatch.syspath_prepend(self.packages)
        self.write_java("1.8.0_392")
        self.write_program("xvfb-run", "exit 0")
        self.jar.touch()

    def write_program(self, name: str, line: str, folder: Path | None = None) -> Path:
        program = (folder or self.bin) / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
        return program

    def write_java(self, version: str, folder: Path | None = None) -> Path:
        return self.write_program("java", f"""echo 'openjdk version "{version}" 2024-01-01' >&2""", folder)

    def install_minestudio(self) -> None:
        simulator = self.packages / "minestudio" / "simulator"
        simulator.mkdir(parents=True)
        (simulator.parent / "__init__.py").touch()
        (simulator / "__init__.py").write_text("from envs.stand_in_minestudio import MinecraftSim\n")

    def install_minerl(self) -> None:
        jar = self.packages / "minerl" / "Malmo" / "Minecraft" / "build" / "libs" / "MalmoMod-0.37.0-fat.jar"
        jar.parent.mkdir(parents=True)
        jar.touch()
        (self.packages / "minerl" / "__init__.py").touch()
        (self.packages / "gym.py").write_text("from envs.stand_in_minerl import make\n")


def forget_stand_ins() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("minestudio", "minerl", "gym")]:
        del sys.modules[name]
