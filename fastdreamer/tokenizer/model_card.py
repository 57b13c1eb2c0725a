"""The hashes that a tokenizer's card holds, and whether its files are still what was written."""

from __future__ import annotations

from pathlib import Path

from fastdreamer.errors import UserError
from fastdreamer.system.files import sha256_file
from fastdreamer.system.json_files import TEXT, Every, read_object
from fastdreamer.tokenizer.fetch import FILES, check_fetched

CARD = "card.json"


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of a tokenizer's files by name, for its card."""
    return {name: sha256_file(folder / name) for name in FILES}


def check_weights(folder: Path) -> None:
    """Compare the files of a tokenizer with what was fetched, or with its card; one that has neither passes.

    Raises:
        UserError: naming the file that is not what was written.
    """
    check_fetched(folder)
    remedy = "copy the folder again from where it is whole, or fit a tokenizer again"
    hashes = read_object(folder / CARD, {"sha256?": Every(TEXT)}, remedy).get("sha256", {})
    try:
        for name in FILES:
            if name in hashes and sha256_file(folder / name) != hashes[name]:
                raise UserError(f"{folder / name} is damaged or changed (SHA-256 differs from its card's): {remedy}")
    except OSError as error:
        raise UserError(f"tokenizer in {folder} cannot be read ({error.strerror}): let this account read it") from error
