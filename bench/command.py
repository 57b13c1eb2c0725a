"""What the benchmarks of phases share: command line, memory cap, probes, where results go."""

from __future__ import annotations

import argparse
import gc
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bench.naive.arms import PAPERS
from bench.probe import ROOT, copy_bandwidth, machine, matrix_rate
from bench.results import Measured, write
from fastdreamer.config import Config, load_config
from fastdreamer.device import Backend, choose_device
from fastdreamer.errors import UserError
from fastdreamer.settings import to_dict

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Setup:
    """What every row is measured with; `backend` is eager.

    Attributes:
        probes: the machine's rates, `matmul_flop_per_s` in the run's precision.
        about: the machine, and what was asked for.
        out: where the rows go, if anywhere.
    """

    config: Config
    backend: Backend
    probes: dict[str, float]
    about: dict[str, Any]
    out: Path | None

    def save(self, rows: Sequence[Measured]) -> None:
        """Writes what there is so far."""
        if self.out is not None:
            write(self.out, self.about, self.probes, rows)

    def lines(self) -> Iterable[str]:
        """The machine and its rates."""
        about = {name: value for name, value in self.about.items() if name != "configuration"}
        yield from (f"{name}: {value}" for name, value in about.items())
        yield from (f"{name}: {value:.4g}" for name, value in self.probes.items())


def arguments(name: str, about: str, result: str) -> argparse.ArgumentParser:
    """The options that all of them have; `result` ends the name of the file on a card."""
    has_card = torch.cuda.is_available()
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=about.split("\n")[0])
    add = parser.add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda" if has_card else "cpu")
    add("--config", default="", help="preset or YAML file")
    add("--memory-gb", type=float, default=0.0, help="GiB that torch may take, as on a smaller card")
    add("--out", type=Path, help=f"JSON file; on a card bench/results/<card>-{result}.json")
    add("overrides", nargs="*", help="such as dynamics.layers=4")
    parser.set_defaults(result=result, name=name)
    return parser


def finish(parser: argparse.ArgumentParser, given: list[str] | None, run: Callable[[argparse.Namespace], None]) -> int:
    """Runs the command; leaves with 2 and one line for a user's mistake."""
    try:
        run(parser.parse_args(given))
    except UserError as error:
        parser.exit(2, f"{parser.get_default('name')}: {error}\n")
    return 0


def known(option: str, given: Collection[Any] | None, names: Iterable[Any]) -> None:
    """Refuses what an option does not know.

    Raises:
        UserError: naming it, and what is known.
    """
    if unknown := [str(one) for one in given or () if one not in (names := list(names))]:
        raise UserError(f"--{option} {', '.join(unknown)}: known are {', '.join(map(str, names))}")


def prepare(chosen: argparse.Namespace, preset: str, compiles: bool) -> Setup:
    """Configuration (of the paper's network, see `PAPERS`, unless overridden), device, memory cap and probes.

    Args:
        chosen: from `arguments`.
        preset: the configuration where none is named.
        compiles: whether anything will be compiled, which needs a compiler.

    Raises:
        UserError: for a device, an amount of memory or a setting that cannot be.
    """
    is_card = chosen.device == "cuda"
    if is_card and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no card here")
    total = torch.cuda.get_device_properties(0).total_memory / 2**30 if is_card else 0.0
    if not 0 <= chosen.memory_gb <= total:
        raise UserError(f"--memory-gb {chosen.memory_gb:g}: the card here has {total:.1f}")
    config = load_config(chosen.config or preset, [f"device={chosen.device}", *PAPERS, *chosen.overrides])
    backend = replace(choose_device(replace(config, compile="on" if compiles else "off")), compiles=False)
    probes = {
        "copy_bytes_per_s": copy_bandwidth(1 << (28 if is_card else 26), chosen.device),
        "matmul_flop_per_s": matrix_rate(8192 if is_card else 512, DTYPES[backend.precision], chosen.device),
    }
    if chosen.memory_gb:
        fresh_peaks()
        torch.cuda.set_per_process_memory_fraction(chosen.memory_gb / total)
    asked = {"memory_gb": chosen.memory_gb, "precision": backend.precision, "configuration": to_dict(config)}
    about = machine() | asked
    card = re.sub(r"[^a-z0-9]+", "-", str(about.get("card", "")).lower()).strip("-")
    usual = ROOT / "bench/results" / f"{card}-{chosen.result}.json" if is_card else None
    return Setup(config, backend, probes, about, chosen.out or usual)


def fresh_peaks() -> None:
    """Lets go of what nothing holds any more, and starts new peaks of the card's memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peaks() -> tuple[int, int]:
    """Most bytes allocated and reserved since `fresh_peaks`; 0 without a card."""
    if not torch.cuda.is_available():
        return 0, 0
    return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()


def reason_of(error: Exception) -> str:
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:240]


def numbers(text: str) -> list[int]:
    """`1,64` as whole numbers of 1 or more."""
    found = [int(one) for one in text.split(",")]
    if min(found) < 1:
        raise ValueError(text)
    return found
