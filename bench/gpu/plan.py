"""What a run of the runner is to do, settled before anything is started."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu.parts import PARTS, SHARE, Part, install_line, without
from bench.gpu.table import NAME
from fastdreamer.errors import UserError
from fastdreamer.system import advice

ROOT = Path(__file__).parents[2]
ABOUT_S = 120.0
"""A driver that does not answer in that time will not."""
DRY_MINUTES = 5.0


@dataclass(frozen=True)
class Work:
    """What is to be done.

    Attributes:
        parts: the parts that were asked for, in their order.
        left_out: reasons why some of them do not run, by name.
        about: the machine.
        out: the folder of the results.
        minutes: the time that all of them have.
        is_dry: whether no GPU is touched.
    """

    parts: tuple[Part, ...]
    left_out: dict[str, str]
    about: dict[str, Any]
    out: Path
    minutes: float
    is_dry: bool


def parsed(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description="Tests and benchmarks on a GPU, in order of worth; see docs/gpu.md."
    )
    add = parser.add_argument
    add("--minutes", type=float, default=0.0, help="when it ends at the latest (default: 10)")
    add("--out", type=Path, help="folder for gpu.json, the table and the logs (default: a new one in runs/)")
    add("--parts", default="", help=f"some of {','.join(part.name for part in PARTS)}")
    add("--dry-run", action="store_true", help="without a GPU: every part on the CPU, tiny, as far as the driver")
    return parser.parse_args(given)


def settled(chosen: argparse.Namespace) -> Work:
    """What the command line asks for, on this machine; prints what is not installed.

    Raises:
        UserError: for what cannot be.
    """
    is_dry = chosen.dry_run
    minutes = chosen.minutes or (DRY_MINUTES if is_dry else 10.0)
    if not (0 < minutes < math.inf):
        raise UserError(f"--minutes {chosen.minutes:g}: give a number above 0")
    parts = _chosen(chosen.parts)
    missing = [
        library for library in dict.fromkeys(n for part in parts for n in part.wants(is_dry)) if not is_there(library)
    ]
    if "torch" in missing:
        raise UserError(f"torch is not installed: {advice.pip('torch')}")
    about = _about(is_dry)
    if not is_dry and not about.get("card"):
        here = advice.shell("python", "-m", "bench.gpu", "--dry-run")
        raise UserError(f"torch {about['versions']['torch']} sees no GPU here: see what would run with {here}")
    out = (chosen.out or _new_folder(about, is_dry)).expanduser().resolve()
    if (out / NAME).exists():
        raise UserError(f"--out {advice.shell(out)} has results already: name another folder")
    left_out: dict[str, str] = {}
    for library, names in without(parts, missing, is_dry).items():
        print(f"{library} is not installed: {install_line(library)}; left out: {', '.join(names)}")
        left_out |= {name: f"needs {library}" for name in names if name not in left_out}
    if not is_dry:
        left_out |= {part.name: too_few(part, about) for part in parts if too_few(part, about)}
    return Work(parts, left_out, about, out, minutes, is_dry)


def too_few(part: Part, about: dict[str, Any]) -> str:
    """Why a machine's GPUs are too few for a part; empty where they are not."""
    here = int(about.get("gpus", 1))
    return f"needs {part.gpus} GPUs, {here} here" if here < part.gpus else ""


def _chosen(text: str) -> tuple[Part, ...]:
    names = [name for name in re.split(r"[,\s]+", text) if name]
    known = [part.name for part in PARTS]
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"--parts {', '.join(unknown)}: known are {', '.join(known)}")
    return tuple(part for part in PARTS if part.name in names or not names)


def is_there(library: str) -> bool:
    """Whether it is installed; it is not imported."""
    package, _, inner = library.partition(".")
    if importlib.util.find_spec(package) is None:
        return False
    return not inner or importlib.util.find_spec(library) is not None


def _about(is_dry: bool) -> dict[str, Any]:
    """The machine, asked in a process of its own: this one must hold no memory of the GPU.

    Raises:
        UserError: where torch or the driver does not answer.
    """
    command = [sys.executable, "-m", "bench.gpu.about", *(["--dry-run"] if is_dry else [])]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment(is_dry), capture_output=True, text=True, timeout=ABOUT_S, check=True
        )
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return found
    except subprocess.TimeoutExpired:
        raise UserError(f"torch and the driver did not answer in {ABOUT_S:.0f} s: look at nvidia-smi") from None
    except (subprocess.CalledProcessError, ValueError, IndexError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
        raise UserError(f"torch and the driver cannot be asked what they are: {said}") from None


def environment(is_dry: bool) -> dict[str, str]:
    """The environment of every part: our packages first, no GPU in a dry run, and kernels, not their interpreter."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    paths = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "engines"), *kept.get("PYTHONPATH", "").split(os.pathsep)]
    kept["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    kept["PYTHONUNBUFFERED"] = "1"  # what was printed before a kill is in the log
    if is_dry:
        kept["CUDA_VISIBLE_DEVICES"] = ""
    return kept


def memory_of(part: Part, about: dict[str, Any]) -> float:
    """GiB that a part may take, in hundredths and never above what there is; 0 without a GPU."""
    total = float(about["memory_gb"])
    most = min(part.memory_gb, total) if part.memory_gb else SHARE * total
    return math.floor(100 * most) / 100


def _new_folder(about: dict[str, Any], is_dry: bool) -> Path:
    name = re.sub(r"[^a-z0-9]+", "-", str(about.get("card", "")).lower()).strip("-")
    return ROOT / "runs" / f"gpu-{'dry-run' if is_dry else name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
