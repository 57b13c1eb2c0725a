"""Choice of the Minecraft simulator that runs here, or one line on the first thing that is missing for it.

What each needs was read in its source: MineStudio 1.1.6 (its `launchClient.sh` starts `xvfb-run -a java`, or `vglrun`
with MINESTUDIO_GPU_RENDER=1; `check_engine` asks on the terminal before it downloads) and minerl 0.4.4 (its
`launchClient.sh` takes DISPLAY, or `xvfb-run` with MINERL_HEADLESS=1, and falls back to Gradle without its jar).
Nothing is downloaded here, and nothing is asked.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from fastdreamer.errors import UserError
from fastdreamer.system.advice import pip, shell

JAVA = 8
JAVA_ANSWERS_S = 60.0
NAMES = {"minestudio": "MineStudio", "minerl": "minerl"}
# MineStudio pins an older PyAV than ours: what it needs besides is named in docs/minecraft.md.
INSTALL = {"minestudio": pip("--no-deps", "minestudio==1.1.6"), "minerl": pip("minerl")}
# The order is that of `auto`. MineStudio crafts and places through Minecraft's own windows: it has no such actions.
CANDIDATES = {
    "minerl_treechop": ("minestudio", "minerl"),
    "vpt": ("minestudio", "minerl"),
    "minerl_navigate": ("minerl",),
    "minerl_obtain": ("minerl",),
    "minerl_basalt": ("minerl",),
}
MINERL_JARS = ("Malmo/Minecraft/build/libs/MalmoMod-0.37.0-fat.jar", "MCP-Reborn/build/libs/mcprec-6.13.jar")


class MinecraftError(UserError):
    """Minecraft cannot be played here, or stopped: one line."""


def find_backend(env: str, wanted: str = "auto") -> str:
    """The simulator that plays `env`: `wanted`, or with `auto` the first that is installed.

    Raises:
        MinecraftError: naming what is missing: the package, Java, a display or Minecraft itself, in this order.
    """
    candidates = CANDIDATES.get(env, ())
    if not candidates:
        raise MinecraftError(f"no Minecraft simulator is known for data.env={env}; it can be trained, not played")
    installed = [name for name in candidates if is_installed(name)]
    name = wanted if wanted != "auto" else (installed or candidates)[0]
    if not is_installed(name):
        others = [other for other in candidates if other != name]
        instead = f", or {others[0]} with evaluation.backend={others[0]}" if wanted == "auto" and others else ""
        raise MinecraftError(f"{NAMES[name]} is not installed: {INSTALL[name]}{instead} (see docs/minecraft.md)")
    check_java(name)
    check_display(name)
    check_engine(name)
    return name


def is_installed(name: str) -> bool:
    """Whether the package is there; it is not imported."""
    return importlib.util.find_spec(name) is not None


def find_java() -> Path | None:
    """The Java that will run Minecraft: JAVA_HOME's before that on PATH."""
    home = os.environ.get("JAVA_HOME")
    at_home = shutil.which("java", path=str(Path(home) / "bin")) if home else None
    found = at_home or shutil.which("java")
    return Path(found) if found else None


def check_java(name: str) -> None:
    """Refuse a machine without a JDK 8.

    Raises:
        MinecraftError: without Java, or for another version.
    """
    java = find_java()
    wanted = f"{NAMES[name]} needs a JDK {JAVA}: install one and set JAVA_HOME to it, or put its bin on PATH"
    if java is None:
        raise MinecraftError(f"no Java found (neither on PATH nor in JAVA_HOME); {wanted}")
    try:
        question = [str(java), "-version"]
        none = subprocess.DEVNULL
        run = subprocess.run(question, stdin=none, capture_output=True, text=True, timeout=JAVA_ANSWERS_S)
        found = re.search(r'version "(?:1\.)?(\d+)', run.stderr + run.stdout)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MinecraftError(f"{java} -version does not answer ({type(error).__name__}); {wanted}") from error
    if found is None or int(found[1]) != JAVA:
        version = f"Java {found[1]}" if found else "no Java that tells its version"
        raise MinecraftError(f"{java} is {version}; {wanted}")


def put_java_on_path() -> None:
    """Let the simulators of this process start the Java that was found: their scripts look on PATH alone."""
    java = find_java()
    if java is not None and shutil.which("java") != str(java):
        os.environ["PATH"] = f"{java.parent}{os.pathsep}{os.environ.get('PATH', '')}"


def check_display(name: str) -> None:
    """Something for Minecraft to draw on.

    Raises:
        MinecraftError: naming the program or the variable that is missing.
    """
    has_display, has_xvfb = bool(os.environ.get("DISPLAY")), shutil.which("xvfb-run") is not None
    if name == "minestudio" and os.environ.get("MINESTUDIO_GPU_RENDER") == "1":
        if shutil.which("vglrun") is None:
            raise MinecraftError("MINESTUDIO_GPU_RENDER=1 draws through vglrun: install VirtualGL, or unset it")
    elif name == "minestudio":  # also where there is a DISPLAY: it starts a display of its own
        if not has_xvfb:
            raise MinecraftError("MineStudio draws on a display of xvfb-run, which is not on PATH: install xvfb")
    elif os.environ.get("MINERL_HEADLESS") == "1":
        if not has_xvfb:
            raise MinecraftError("MINERL_HEADLESS=1 draws on a display of xvfb-run, not on PATH: install xvfb")
    elif not has_display:
        raise MinecraftError("there is no display (DISPLAY is not set): install xvfb and set MINERL_HEADLESS=1")


def check_engine(name: str) -> None:
    """Minecraft itself, which neither package contains.

    Raises:
        MinecraftError: if it has not been downloaded or built.
    """
    if name == "minestudio":
        folder = Path(os.environ.get("MINESTUDIO_DIR") or Path(tempfile.gettempdir()) / "MineStudio")
        jar = folder / "engine" / "build" / "libs" / "mcprec-6.13.jar"
        if not jar.is_file():
            raise MinecraftError(
                f"MineStudio's Minecraft is not downloaded ({jar} is missing): run "
                f"`{shell('python', '-m', 'minestudio.simulator.entry', '-y')}` once; MINESTUDIO_DIR says where it lies"
            )
        return
    spec = importlib.util.find_spec("minerl")
    folder = Path(next(iter((spec and spec.submodule_search_locations) or ["minerl"])))
    if not any((folder / jar).is_file() for jar in MINERL_JARS):
        raise MinecraftError(f"minerl's Minecraft was not built ({folder / MINERL_JARS[0]} is missing): reinstall it")
