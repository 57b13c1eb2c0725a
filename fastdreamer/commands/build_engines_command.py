"""`fastdreamer build-engines`: compile the frozen tokenizer and compare it with eager."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import Any

from fastdreamer.commands.command import Command, announce, given, resolve


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--target", type=given, metavar="LIST", help="GPUs besides this machine: sm86,sm89,sm120")
    parser.add_argument(
        "--backend", type=given, metavar="LIST", help="tensorrt_rtx, tensorrt, torch-tensorrt, aot-inductor, inductor"
    )
    parser.add_argument(
        "--precision", type=given, metavar="P", help="fp32, fp16 or bf16; default: fp16 on a GPU, fp32 on a CPU"
    )
    parser.add_argument("--replace", action="store_true", help="build those that are installed and current too")
    parser.add_argument("--decoder", action="store_true", help="the decoder too, for pictures")
    parser.add_argument("--random-weights", action="store_true", help="random weights, to try it without the real ones")


def call(arguments: Namespace) -> dict[str, Any]:
    """Compiled tokenizers; an engine over its limit is not installed, and the exit code is then 1."""
    if arguments.random_weights:
        arguments.overrides.append("tokenizer.weights=random")
    if arguments.precision:
        arguments.overrides.append(f"engines.precision={arguments.precision}")
    config = resolve(arguments)
    announce(config)
    from fastdreamer.device import choose_device
    from fastdreamer.tokenizer.engines.build_engines import build_engines as build

    targets, backends = ([w for w in (text or "").split(",") if w] for text in (arguments.target, arguments.backend))
    parts = ("encoder", "decoder") if arguments.decoder else ("encoder",)
    result = build(config, choose_device(config).device, targets, backends, parts, arguments.replace)
    _show_engines(result)
    return result


def _show_engines(result: Mapping[str, Any]) -> None:
    """Print a row an engine: what it is for, its size, and how it compares with eager."""
    print(f"{'part':<8} {'backend':<14} {'target':<20} {'prec':<5} {'MB':>6} {'build s':>8} {'error':>8}  ms a clip")
    for row in result["engines"]:
        times = ", ".join(f"{shape} {ms:g}" for shape, ms in row["ms"].items()) or row["status"]
        eager = f" (eager fp32 {row['eager_ms_per_clip']:g})" if row["eager_ms_per_clip"] else ""
        print(
            f"{row['part']:<8} {row['backend']:<14} {row['target']:<20} {row['precision']:<5} "
            f"{row['bytes'] / 1e6:>6.0f} {row['seconds']:>8.1f} {row['relative_error']:>8.1e}  {times}{eager}"
            f"{', kept' if row['kept'] else ''}"
        )
    for name, reason in result["refused"].items():
        print(f"REFUSED {name}: {reason}")
    print(f"{result['root']}, {result['seconds']} s")


COMMAND = Command(
    "build-engines", "compile the frozen tokenizer and compare it with eager", call, _arguments, run_dir="optional"
)
