"""One runner for all benchmarks that are read, not gated; and what they share: memory cap, probes, where results go.

    PYTHONPATH=.:kernels:engines python -m bench.suites                     lists them
    PYTHONPATH=.:kernels:engines python -m bench.suites NAME [options]      --help says which

A suite is a module here with OPTIONS (those of `SHARED` that it takes), perhaps `add` (its own), and `run`.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from bench.naive.papers import PAPERS
from bench.probe import ROOT, copy_bandwidth, machine, matrix_rate, slug
from bench.suites.results import Measured, write
from fastdreamer.config import Config, load_config
from fastdreamer.device import Backend, choose_device
from fastdreamer.errors import UserError
from fastdreamer.settings import to_dict

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SUITES = {
    "naive": "our step and rollout beside plain PyTorch's",
    "training_step": "an optimisation step of each phase: time, share of the matrix rate, memory",
    "imagination": "an imagined step by every way of running it",
    "kernels": "the kernels beside plain PyTorch and torch.compile",
    "encoder": "the tokenizer's encoder in every backend",
    "data_path": "frames a second from mp4 to the encoder's input",
    "overlap": "whether encode costs what its slowest stage costs",
    "sampling": "a draw of crops, and waiting for them",
    "play": "a step of play, and the page in a browser: pictures a second, key to picture",
    "world_models": "kinds of world models on a run's store",
}
SHARED: dict[str, dict[str, Any]] = {
    "device": {"choices": ("cuda", "cpu"), "default": "cuda" if torch.cuda.is_available() else "cpu"},
    "config": {"default": "", "help": "preset or YAML file"},
    "memory-gb": {"type": float, "default": 0.0, "help": "GiB that torch may take, as on a smaller GPU"},
    "out": {"type": Path, "help": "JSON file; on a GPU one in bench/results"},
    "overrides": {"nargs": "*", "help": "such as dynamics.layers=4"},
}
ALL = tuple(SHARED)
AnyRow = TypeVar("AnyRow", bound=Measured)


@dataclass(frozen=True)
class Setup:
    """What every row is measured with; `backend` is eager.

    Attributes:
        probes: the machine's rates, `matmul_flop_per_s` in the run's precision.
        about: the machine, and what was asked for.
        out: the file of the rows, if any.
    """

    config: Config
    backend: Backend
    probes: dict[str, float]
    about: dict[str, Any]
    out: Path | None

    def saved(self, rows: Iterable[AnyRow]) -> list[AnyRow]:
        """All rows; with each one, what there is so far is written."""
        done = list[AnyRow]()
        for row in rows:
            done.append(row)
            if self.out is not None:
                write(self.out, self.about, self.probes, done)
        return done

    def lines(self) -> Iterable[str]:
        """The machine and its rates."""
        about = {name: value for name, value in self.about.items() if name != "configuration"}
        yield from (f"{name}: {value}" for name, value in about.items())
        yield from (f"{name}: {value:.4g}" for name, value in self.probes.items())


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; leave with 2 and one line for a user's mistake."""
    name, *rest = (sys.argv[1:] if given is None else given) or [""]
    if name in ("", "-h", "--help"):
        lines = [f"  {name:<15}{about}" for name, about in SUITES.items()]
        print("python -m bench.suites NAME [--help]; the names:", *lines, sep="\n")
        return 0
    if (chosen := name.replace("-", "_")) not in SUITES:
        print(f"bench.suites: {name}: there are {', '.join(SUITES)}", file=sys.stderr)
        return 2
    parser = parser_of(chosen)
    try:
        parsed = parser.parse_intermixed_args(rest)
        _check_gpu(parsed)
        importlib.import_module(f"bench.suites.{chosen}").run(parsed)
    except UserError as error:
        parser.exit(2, f"bench.suites {chosen}: {error}\n")
    return 0


def parser_of(name: str) -> argparse.ArgumentParser:
    """The options of a suite."""
    suite: Any = importlib.import_module(f"bench.suites.{name}")
    parser = argparse.ArgumentParser(
        prog=f"python -m bench.suites {name}", description=suite.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    if hasattr(suite, "add"):
        suite.add(parser)
    for option in suite.OPTIONS:
        parser.add_argument(option if option == "overrides" else f"--{option}", **SHARED[option])
    parser.set_defaults(result=f"-{name.replace('_', '-')}")
    return parser


def _check_gpu(chosen: argparse.Namespace) -> None:
    """Refuses a GPU, or memory of it, that is not there."""
    is_gpu, memory_gb = getattr(chosen, "device", "cpu") == "cuda", getattr(chosen, "memory_gb", 0.0)
    if is_gpu and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here")
    total = torch.cuda.get_device_properties(0).total_memory / 2**30 if is_gpu else 0.0
    if not 0 <= memory_gb <= total:
        raise UserError(f"--memory-gb {memory_gb:g}: the GPU here has {total:.1f}")


def cap_memory(chosen: argparse.Namespace) -> None:
    """Limit memory to what --memory-gb asks for."""
    if chosen.memory_gb:
        fresh_peaks()
        total = torch.cuda.get_device_properties(0).total_memory / 2**30
        torch.cuda.set_per_process_memory_fraction(chosen.memory_gb / total)


def out_file(chosen: argparse.Namespace, about: dict[str, Any]) -> Path | None:
    """The file of --out; or on a GPU its own file in bench/results."""
    usual = ROOT / "bench/results" / f"{slug(about.get('card', ''))}{chosen.result}.json"
    return chosen.out or (usual if chosen.device == "cuda" else None)


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
        chosen: the parsed command line.
        preset: the configuration where none is named.
        compiles: whether anything will be compiled, which needs a compiler.

    Raises:
        UserError: for a setting that cannot be.
    """
    is_gpu = chosen.device == "cuda"
    config = load_config(chosen.config or preset, [f"device={chosen.device}", *PAPERS, *chosen.overrides])
    backend = replace(choose_device(replace(config, compile="on" if compiles else "off")), compiles=False)
    probes = {
        "copy_bytes_per_s": copy_bandwidth(1 << (28 if is_gpu else 26), chosen.device),
        "matmul_flop_per_s": matrix_rate(8192 if is_gpu else 512, DTYPES[backend.precision], chosen.device),
    }
    cap_memory(chosen)
    asked = {"memory_gb": chosen.memory_gb, "precision": backend.precision, "configuration": to_dict(config)}
    about = machine() | asked
    return Setup(config, backend, probes, about, out_file(chosen, about))


def fresh_peaks() -> None:
    """Lets go of what nothing holds any more, and starts new peaks of the GPU's memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peaks() -> tuple[int, int]:
    """Most bytes allocated and reserved since `fresh_peaks`; 0 without a GPU."""
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
