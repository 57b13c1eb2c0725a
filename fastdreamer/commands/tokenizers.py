"""The commands on tokenizers: fit-tokenizer, fetch-weights and build-engines."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import Any

from fastdreamer.commands.command import announce, folder, given, resolve
from fastdreamer.errors import UserError
from fastdreamer.system.files import expanded
from fastdreamer.system.output import show


def fit_tokenizer_arguments(parser: ArgumentParser) -> None:
    """What `fit-tokenizer` takes."""
    parser.add_argument("--recordings", type=folder, metavar="DIR", required=True)
    parser.add_argument("--out", type=folder, metavar="DIR", required=True, help="where the tokenizer goes")


def fit_tokenizer(arguments: Namespace) -> dict[str, Any]:
    """Fit a small tokenizer on recordings."""
    config = resolve(arguments)
    announce(config)
    from fastdreamer.tokenizer.fitting.fit import fit_tokenizer as fit

    return show(fit(config, arguments.recordings, arguments.out))


def fetch_weights_arguments(parser: ArgumentParser) -> None:
    """What `fetch-weights` takes."""
    parser.add_argument("--out", type=folder, metavar="DIR", help="default: the configuration's tokenizer.weights")
    parser.add_argument("--repo", type=given, metavar="NAME", help="default: nvidia/Cosmos-1.0-Tokenizer-CV8x8x8")
    parser.add_argument(
        "--revision", type=given, metavar="COMMIT", help="default: the one fetched before, else the newest, recorded"
    )
    parser.add_argument("--replace", action="store_true", help="what lies there gives way, once its successor is there")
    parser.add_argument(
        "--token", type=given, metavar="TOKEN", help="of the hub; default: HF_TOKEN or the one you logged in with"
    )


def fetch_weights(arguments: Namespace) -> dict[str, Any]:
    """The tokenizer's weights, into the folder that the configuration reads them from."""
    from fastdreamer.config import load_config

    config = load_config(arguments.config or "minerl_cosmos", arguments.overrides)
    if arguments.out is None and config.tokenizer.weights in ("embedded", "random"):
        raise UserError(
            f"tokenizer.weights is {config.tokenizer.weights}, which needs no fetching: name a --out folder"
        )
    from fastdreamer.tokenizer.fetch import fetch_weights as fetch

    out = arguments.out or expanded(config.tokenizer.weights)
    repo = {} if arguments.repo is None else {"repo": arguments.repo}
    return show(fetch(out, revision=arguments.revision, token=arguments.token, replace=arguments.replace, **repo))


def build_engines_arguments(parser: ArgumentParser) -> None:
    """What `build-engines` takes."""
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


def build_engines(arguments: Namespace) -> dict[str, Any]:
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
