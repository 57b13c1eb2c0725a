"""`fastdreamer fit-tokenizer`: train a small tokenizer on recordings."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from fastdreamer.commands.command import Command, announce, folder, resolve
from fastdreamer.system.output import show


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--recordings", type=folder, metavar="DIR", required=True)
    parser.add_argument("--out", type=folder, metavar="DIR", required=True, help="where the tokenizer goes")


def call(arguments: Namespace) -> dict[str, Any]:
    """Fit a small tokenizer on recordings."""
    config = resolve(arguments)
    announce(config)
    from fastdreamer.tokenizer.fitting.fit import fit_tokenizer as fit

    return show(fit(config, arguments.recordings, arguments.out))


COMMAND = Command("fit-tokenizer", "train a small tokenizer on recordings", call, _arguments)
