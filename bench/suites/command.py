"""One runner for all benchmarks that are read, not gated; and what they share: memory cap, probes, where results go.

    PYTHONPATH=.:kernels:engines python -m bench.suites                     lists them
    PYTHONPATH=.:kernels:engines python -m bench.suites NAME [options]      --help says which

A suite is a module here with OPTIONS (what the parser takes by name, see `options`), and `run`.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bench.suites.results import AnyRow, write
from bench.timing import ROOT, copy_bandwidth, machine, matrix_rate, slug
from fastdreamer.config import Config, load_config
from fastdreamer.device import Backend, choose_device
from fastdreamer.errors import UserError
from fastdreamer.settings import to_dict

PAPERS = (
    "dynamics.linear_start=false", "dynamics.spatial_tokens=16", "forcing.levels=grid", "forcing.sample_steps=4",
    "forcing.boot_fraction=0.25", "forcing.context_signal=0.9", "heads.history=0", "heads.input_noise=0",
    "heads.reward_members=1",
)  # fmt: skip
"""Laid over a preset on both sides: the yardstick is the network of the paper, which the naive arm writes out."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SUITES = {
    "naive": "our step and rollout beside plain PyTorch's",
    "training_step": "an optimisation step of each phase: time, share of the matrix rate, memory",
    "imagination": "an imagined step by every way of running it",
    "kernels": "the kernels beside plain PyTorch and torch.compile",
    "encoder": "the tokenizer's encoder in every backend",
    "data_path": "frames a second from mp4 to the encoder's input",
    "overlap": "whether encode costs what its slowest stage costs",
    "many_episodes": "a store of 100,000 episodes; encoding 3,000",
    "sampling": "a draw of crops, and waiting for them",
    "ranks": "a step in several processes beside the same in one, on a CPU",
    "play": "a step of play, and the page in a browser: pictures a second, key to picture",
    "world_models": "kinds of world models on a run's store",
}
SHARED: dict[str, dict[str, Any]] = {
    "device": {"choices": ("cuda", "cpu"), "default": "cuda" if torch.cuda.is_available() else "cpu"},
    "config": {"default": "", "help": "preset or YAML file"},
    "memory_gb": {"type": float, "default": 0.0, "help": "GiB that torch may take, as on a smaller GPU"},
    "out": {"type": Path, "help": "JSON file; on a GPU one in bench/results"},
    "overrides": {"nargs": "*", "help": "such as dynamics.layers=4"},
}
ALL = tuple(SHARED)
POSITIONAL = ("overrides", "run_dir")


def options(*shared: str, **own: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The options of a suite: its own, and some of `SHARED`."""
    return own | {name: SHARED[name] for name in shared}


@dataclass(frozen=True)
class Report:
    """What is said of the rows.

    Attributes:
        about: the machine, and what was asked for.
        probes: the machine's rates.
        out: the file of the rows, if any.
    """

    about: dict[str, Any]
    probes: dict[str, float]
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


@dataclass(frozen=True)
class Setup(Report):
    """What every row is measured with as well; `backend` is eager, `matmul_flop_per_s` a probe in its precision."""

    config: Config
    backend: Backend


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
    for option, how in suite.OPTIONS.items():
        parser.add_argument(option if option in POSITIONAL else f"--{option.replace('_', '-')}", **how)
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
    """Refuses what an option does not know; UserError naming it, and what is known."""
    if unknown := [str(one) for one in given or () if one not in (names := list(names))]:
        raise UserError(f"--{option} {', '.join(unknown)}: known are {', '.join(map(str, names))}")


def prepare(chosen: argparse.Namespace, preset: str, compiles: bool) -> Setup:
    """Configuration (of the paper's network, see `PAPERS`, unless overridden), device, memory cap and probes.

    `preset` is the configuration where none is named. Where anything will be compiled a compiler must be there.

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
    return Setup(about, probes, out_file(chosen, about), config, backend)


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


def words(text: str) -> list[str]:
    """`a,b` as its words."""
    return text.split(",")


def numbers(text: str) -> list[int]:
    """`1,64` as whole numbers of 1 or more."""
    found = [int(one) for one in text.split(",")]
    if min(found) < 1:
        raise ValueError(text)
    return found
