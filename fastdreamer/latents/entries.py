"""What may stand in a store's manifest and journal: both may come from a stranger, or have lost a byte."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastdreamer.shapes import LatentClock
from fastdreamer.system.json_files import COUNT, FLAG, TEXT
from fastdreamer.system.json_files import digest as digest

SPLITS = ("train", "held_out")
HEIRLOOMS = "heirlooms"  # key of a manifest that is to replace another: what of its entries must stay
_is_text, _is_count, _is_flag = TEXT.holds, COUNT.holds, FLAG.holds


def is_sound(content: Mapping[str, Any]) -> bool:
    """Whether what hashes itself in `sha256` is what was hashed."""
    return content.get("sha256") == digest({name: value for name, value in content.items() if name != "sha256"})


def fault(manifest: Mapping[str, Any]) -> str:
    """What no store's manifest can say; empty if there is nothing of the kind."""
    if wrong := _misfit(manifest, _TOP):
        return wrong
    if wrong := _misfit(manifest["key"], _KEY) or _misfit(manifest["space"], _SPACE):
        return wrong
    try:
        LatentClock(manifest["key"]["frames_per_latent"], manifest["key"]["window"])
    except ValueError as error:
        return str(error)
    for name, entry in manifest.get(HEIRLOOMS, {}).items():
        if wrong := _misfit(entry, _HEIRLOOM) if isinstance(entry, dict) else "it is none":
            return f"entry {name} that is taken over: {wrong}"
    for name, entry in manifest["episodes"].items():
        if wrong := entry_fault(entry):
            return f"episode {name}: {wrong}"
    return ""


def entry_fault(entry: Any) -> str:
    """What no episode's entry can say; empty if there is nothing of the kind."""
    return "its entry is none" if not isinstance(entry, dict) else _misfit(entry, _ENTRY)


def line_fault(line: Mapping[str, Any]) -> str:
    """What no line of a journal can say; empty if there is nothing of the kind."""
    if "reason" in line:
        return _misfit(line, _ASIDE)
    return _misfit(line, _ADDED) or entry_fault(line["entry"])


def _misfit(values: Mapping[str, Any], kinds: Mapping[str, Callable[[Any], bool]]) -> str:
    """The first name that is missing (with `?` it may be) or has a value of another kind."""
    for name, is_kind in kinds.items():
        bare = name.removesuffix("?")
        if bare not in values:
            if bare == name:
                return f"it has no {name}"
        elif not is_kind(values[bare]):
            return f"its {bare} is {str(values[bare])[:40]!r}"
    return ""


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_file_name(value: Any) -> bool:
    """A file in the store's own folder: a manifest may come from a stranger, and names no other."""
    return _is_text(value) and value not in ("", ".", "..") and not {"/", "\0"} & set(value)


_TOP = {"key": _is_object, "space": _is_object, "episodes": _is_object, "skipped?": _is_object, "tasks?": _are_texts}
_TOP |= {"held_out?": _is_number, f"{HEIRLOOMS}?": _is_object}
_KEY = {"tokenizer": _is_text, "frames_per_latent": _is_count, "window": _is_count}
_SPACE = {"name": _is_text, "fingerprint": _is_text}
_ENTRY = {
    "file": _is_file_name, "sha256": _is_text, "source_sha256": _is_text, "video_sha256?": _is_text, "path?": _is_text,
    "frames": _is_count, "steps": _is_count, "split": lambda value: value in SPLITS, "labelled": _is_flag,
    "rewarded?": _is_flag, "task?": _is_count, "counters?": _are_texts, "mended?": _are_texts, "by_pyav?": _is_text,
    "frames_per_s?": _is_number, "alignment?": _is_count, "sampled_sha256?": _is_text,
}  # fmt: skip
_HEIRLOOM = {"source_sha256": _is_text, "video_sha256?": _is_text, "sampled_sha256?": _is_text, "path?": _is_text,
             "split?": lambda value: value in SPLITS, "task?": _is_count}  # fmt: skip
_ASIDE = {"name": _is_text, "reason": _is_text}
_ADDED = {"name": _is_text, "env?": _is_text, "entry": _is_object}
