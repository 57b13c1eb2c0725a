"""What may stand in a store's manifest and journal: both may come from a stranger, or have lost a byte."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastdreamer.shapes import LatentClock
from fastdreamer.system import json_files
from fastdreamer.system.json_files import COUNT, FLAG, NUMBER, TEXT, Every, Leaf
from fastdreamer.system.json_files import digest as digest

SPLITS = ("train", "held_out")
HEIRLOOMS = "heirlooms"  # key of a manifest that is to replace another: what of its entries must stay


def is_sound(content: Mapping[str, Any]) -> bool:
    """Whether what hashes itself in `sha256` is what was hashed."""
    return content.get("sha256") == digest({name: value for name, value in content.items() if name != "sha256"})


def fault(manifest: Mapping[str, Any]) -> str:
    """What no store's manifest can say; empty if there is nothing of the kind."""
    if wrong := json_files.fault(manifest, _MANIFEST):
        return wrong
    try:
        LatentClock(manifest["key"]["frames_per_latent"], manifest["key"]["window"])
    except ValueError as error:
        return str(error)
    return ""


def line_fault(line: Mapping[str, Any]) -> str:
    """What no line of a journal can say; empty if there is nothing of the kind."""
    return json_files.fault(line, _ASIDE if "reason" in line else _ADDED)


def _is_file_name(value: Any) -> bool:
    return isinstance(value, str) and value not in ("", ".", "..") and not {"/", "\0"} & set(value)


_FILE = Leaf("a file in the store's own folder", _is_file_name)  # a manifest may come from a stranger
_SPLIT = Leaf(" or ".join(SPLITS), lambda value: value in SPLITS)
_HEIRLOOM = {
    "source_sha256": TEXT, "video_sha256?": TEXT, "sampled_sha256?": TEXT, "path?": TEXT, "split?": _SPLIT,
    "task?": COUNT,
}  # fmt: skip
_ENTRY = _HEIRLOOM | {
    "file": _FILE, "sha256": TEXT, "frames": COUNT, "steps": COUNT, "split": _SPLIT, "labelled": FLAG,
    "rewarded?": FLAG, "counters?": [TEXT], "mended?": [TEXT], "by_pyav?": TEXT, "frames_per_s?": NUMBER,
    "alignment?": COUNT,
}  # fmt: skip
_MANIFEST = {
    "key": {"tokenizer": TEXT, "frames_per_latent": COUNT, "window": COUNT},
    "space": {"name": TEXT, "fingerprint": TEXT},
    "episodes": Every(_ENTRY), "skipped?": {}, "tasks?": [TEXT], "held_out?": NUMBER, f"{HEIRLOOMS}?": Every(_HEIRLOOM),
}  # fmt: skip
_ASIDE = {"name": TEXT, "reason": TEXT}
_ADDED = {"name": TEXT, "env?": TEXT, "entry": _ENTRY}
