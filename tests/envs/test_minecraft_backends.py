"""What is missing for Minecraft is named in one line, in the order package, Java, display, Minecraft itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastdreamer.envs.minecraft_backends import MinecraftError, find_backend, put_java_on_path

from .pretend import Machine


def missing(env: str = "minerl_treechop", wanted: str = "auto") -> str:
    with pytest.raises(MinecraftError) as caught:
        find_backend(env, wanted)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_each_thing_in_its_turn(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    java, xvfb = machine.bin / "java", machine.bin / "xvfb-run"
    for part in (java, xvfb, machine.jar):
        part.unlink()
    assert missing().startswith("MineStudio is not installed: pip install --no-deps minestudio==1.1.6, or minerl with")
    machine.install_minestudio()
    assert "no Java found (neither on PATH nor in JAVA_HOME); MineStudio needs a JDK 8" in missing()
    machine.write_java("17.0.9")
    assert f"{java} is Java 17; MineStudio needs a JDK 8" in missing()
    machine.write_program("java", "echo 'Unable to locate a Java Runtime' >&2; exit 1")
    assert "no Java that tells its version" in missing()
    machine.write_java("1.8.0_392")
    monkeypatch.setenv("DISPLAY", ":0")  # MineStudio starts a display of its own in any case
    assert "xvfb-run, which is not on PATH" in missing()
    machine.write_program("xvfb-run", "exit 0")
    assert f"{machine.jar} is missing): run `python -m minestudio.simulator.entry -y` once" in missing()
    machine.jar.touch()
    assert find_backend("minerl_treechop") == find_backend("vpt") == "minestudio"


def test_java_home_comes_first_and_reaches_the_simulators(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.install_minestudio()
    machine.write_java("21.0.1")
    home = machine.folder / "jdk8"
    java = machine.write_java("1.8.0_392", home / "bin")
    monkeypatch.setenv("JAVA_HOME", str(home))
    assert find_backend("minerl_treechop") == "minestudio"
    import os
    import shutil

    put_java_on_path()
    assert shutil.which("java") == str(java) and str(machine.bin) in os.environ["PATH"]


def test_a_silent_java_does_not_hang(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.install_minestudio()
    machine.write_program("java", "exec /bin/sleep 30")
    monkeypatch.setattr("fastdreamer.envs.minecraft_backends.JAVA_ANSWERS_S", 0.2)
    assert "does not answer (TimeoutExpired)" in missing()


def test_rendering_on_a_card_needs_vglrun(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.install_minestudio()
    monkeypatch.setenv("MINESTUDIO_GPU_RENDER", "1")
    assert "vglrun: install VirtualGL" in missing()
    machine.write_program("vglrun", "exit 0")
    assert find_backend("vpt") == "minestudio"


def test_minerl_needs_a_display_and_its_own_minecraft(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing("minerl_obtain") == "minerl is not installed: pip install minerl (see docs/minecraft.md)"
    machine.install_minerl()
    assert "DISPLAY is not set" in missing("minerl_obtain")
    monkeypatch.setenv("MINERL_HEADLESS", "1")
    assert find_backend("minerl_obtain") == find_backend("minerl_treechop") == "minerl"
    (machine.bin / "xvfb-run").unlink()
    assert "MINERL_HEADLESS=1 draws on a display of xvfb-run" in missing("minerl_obtain")
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.delenv("MINERL_HEADLESS")
    next(Path(machine.packages).rglob("*.jar")).unlink()
    assert "minerl's Minecraft was not built" in missing("minerl_obtain")


def test_minestudio_comes_first_and_a_wish_is_followed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.install_minestudio()
    machine.install_minerl()
    monkeypatch.setenv("DISPLAY", ":0")
    assert find_backend("minerl_treechop") == "minestudio"
    assert find_backend("minerl_treechop", "minerl") == "minerl"
    assert find_backend("minerl_obtain") == "minerl"


def test_spaces_without_a_simulator(machine: Machine) -> None:
    assert "no Minecraft simulator is known for data.env=minerl_vector" in missing("minerl_vector")
