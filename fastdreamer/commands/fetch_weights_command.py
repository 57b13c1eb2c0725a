"""`fastdreamer fetch-weights`: the Cosmos tokenizer's weights from the Hugging Face hub."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from fastdreamer.commands.command import Command, folder, given
from fastdreamer.errors import UserError
from fastdreamer.system.files import expanded
from fastdreamer.system.output import show


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=folder, metavar="DIR", help="default: the configuration's tokenizer.weights")
    parser.add_argument("--repo", type=given, metavar="NAME", help="default: nvidia/Cosmos-1.0-Tokenizer-CV8x8x8")
    parser.add_argument(
        "--revision", type=given, metavar="COMMIT", help="default: the one fetched before, else the newest, recorded"
    )
    parser.add_argument("--replace", action="store_true", help="what lies there gives way, once its successor is there")
    parser.add_argument(
        "--token", type=given, metavar="TOKEN", help="of the hub; default: HF_TOKEN or the one you logged in with"
    )


def call(arguments: Namespace) -> dict[str, Any]:
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


COMMAND = Command("fetch-weights", "the Cosmos tokenizer's weights from the Hugging Face hub", call, _arguments)
