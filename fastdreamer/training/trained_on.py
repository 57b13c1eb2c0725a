"""What a run was trained on, so that a store which changed since does not go by in silence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastdreamer.errors import UserError
from fastdreamer.latents.entries import digest
from fastdreamer.latents.journal import JOURNAL
from fastdreamer.latents.store import SYNTHETIC, LatentStore
from fastdreamer.latents.store_advice import make, mend
from fastdreamer.run.run_files import TRAINED_ON


def changes_since(run: Path, store: LatentStore) -> str:
    """How the store differs from what the run was last trained on; empty if it does not, or nothing was noted."""
    try:
        noted = TRAINED_ON.read(run, remedy="whether the store changed is not known")
    except UserError as error:
        return str(error)
    said = _differences(noted["episodes"], _summary(store)) if noted else ""
    return f"store {store.path} changed since this run was last trained on it; episodes: {said}" if said else ""


def unfinished(store: LatentStore) -> str:
    """Says that `encode` has not come to its end; empty if it has. The split of a new episode is settled there."""
    if not (store.path / JOURNAL).exists():
        return ""
    return f"store {store.path} is not finished: an episode may still come into the other split; {mend(store.path)}"


def aligned_before(store: LatentStore) -> str:
    """Says that actions were laid beside frames by number, before times were read; empty if none were.

    Our own recordings prove their frames one by one, and made-up ones have none.
    """
    if store.tokenizer == SYNTHETIC or not store.space.name.startswith(("minerl", "vpt")):
        return ""
    old = [entry for entry in store.manifest["episodes"].values() if entry["labelled"] and "alignment" not in entry]
    if not old:
        return ""
    return (
        f"{len(old):,} episodes of store {store.path} were encoded before times matched frames to actions; "
        f"check them, and encode again what was out of step, with: {make(store.path)}"
    )


def note(run: Path, store: LatentStore) -> None:
    """Keep what the run is trained on from now."""
    content = {"episodes": _summary(store)}
    noted = {"sha256": digest(content), **content}
    try:
        is_known = TRAINED_ON.read(run) == noted
    except UserError:
        is_known = False
    if not is_known:
        TRAINED_ON.write(run, noted)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    both = before.keys() & now.keys()
    moved = sorted(name for name in both if before[name]["split"] != now[name]["split"])
    counts = {
        "new": len(now.keys() - before.keys()),
        "gone": len(before.keys() - now.keys()),
        "encoded anew": sum(before[name]["sha256"] != now[name]["sha256"] for name in both),
        "in the other split": len(moved),
        "of another task number": sum(before[name]["task"] != now[name]["task"] for name in both),
    }
    said = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    first = f" (the first: {moved[0]}), so held-out figures are of what was trained on" if moved else ""
    return said + first


def _summary(store: LatentStore) -> dict[str, Mapping[str, Any]]:
    entries = store.manifest["episodes"]
    return {e.name: {"split": e.split, "task": e.task, "sha256": entries[e.name]["sha256"]} for e in store.episodes}
