"""The wheel holds everything that runs need, and nothing of the repository's other folders."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_packages_presets_data_and_licence(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = [ROOT / "fastdreamer", ROOT / "kernels" / "fastdreamer_kernels", ROOT / "engines" / "fastdreamer_engines"]
    for folder in shipped:
        for path in folder.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert path.relative_to(folder.parent).as_posix() in names
    for preset in (ROOT / "configs").glob("*.yaml"):
        assert f"fastdreamer/configs/{preset.name}" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"fastdreamer", "fastdreamer_kernels", "fastdreamer_engines"}


@pytest.mark.slow
def test_the_wheel_is_small(wheel):
    assert wheel.stat().st_size < 20e6


@pytest.mark.slow
def test_the_command_of_an_installed_wheel_knows_its_presets(wheel, tmp_path):
    """Unpacked elsewhere and run there: no file of the repository can help out."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = """
import sys; sys.path.insert(0, "site")
import fastdreamer; assert fastdreamer.__file__.endswith("site/fastdreamer/__init__.py"), fastdreamer.__file__
from fastdreamer.config import load_config
from fastdreamer.settings import presets
print(*sorted(presets())); [load_config(name) for name in presets()]
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.split() == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


def test_constraints_are_exact_public_versions():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    for line in lines:
        name, separator, version = line.partition("==")
        assert separator and name and version and not set("+@/ ") & set(line), line
