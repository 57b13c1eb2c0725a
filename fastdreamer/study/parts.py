"""A study in parts: what is finished is written down, and is not done again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.settings import to_dict
from fastdreamer.system.files import write_atomic
from fastdreamer.system.json_files import NUMBER, TEXT, digest, read_object
from fastdreamer.system.output import to_json

# What no part's result depends on, but for rounding.
ASIDE = ("engines", "device", "compile", "memory_gb")


AGAIN = "move it away, and the part is done again"
PART = {"made_with": TEXT, "seconds": NUMBER, "result": {}, "sha256?": TEXT}


class Parts:
    """The parts of a study: a file a part under `folder`, with its result and what it was made with."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self.say = folder, say

    def run(
        self, name: str, made_with: str, work: Callable[[], Mapping[str, Any]], again: bool = False
    ) -> dict[str, Any]:
        """The part's result: as it was written down, or by doing the work, which goes on where it was stopped.

        Args:
            made_with: all that its result depends on, as a fingerprint.
            again: do it again where it was made with something else.

        Raises:
            UserError: if it is damaged, or was made with something else and may not be done again; or by the work.
        """
        path = self.path(name)
        kept = self.read(name)
        if kept is not None and kept["made_with"] == made_with:
            return dict(kept["result"])
        if kept is not None and not again:
            raise UserError(f"{path} was made with other settings: a study keeps its recipe, so use another --run-dir")
        self.say(f"[{name}]")
        began = time.perf_counter()
        result = json.loads(to_json(work()))
        seconds = round(time.perf_counter() - began, 2)
        path.parent.mkdir(parents=True, exist_ok=True)
        written = {"made_with": made_with, "seconds": seconds, "result": result}
        write_atomic(path, (json.dumps(written | {"sha256": digest(written)}, indent=1) + "\n").encode())
        self.say(f"[{name}] done in {seconds:.1f} s")
        return dict(result)

    def read(self, name: str) -> dict[str, Any] | None:
        """What was written down of a part, or None; UserError if it is damaged."""
        path = self.path(name)
        kept = read_object(path, PART, AGAIN)
        written = kept.pop("sha256", None)  # parts of before have none
        if written is not None and written != digest(kept):
            raise UserError(f"{path} is damaged (its content is not what was written): {AGAIN}")
        return kept or None

    def seconds(self) -> dict[str, float]:
        """What every finished part took, by name; of a part that was stopped and went on, its last go."""
        names = sorted(path.relative_to(self.folder).with_suffix("").as_posix() for path in self.folder.rglob("*.json"))
        return {name: kept["seconds"] for name in names if (kept := self.read(name)) is not None}

    def path(self, name: str) -> Path:
        """Path of a part's file."""
        return self.folder / f"{name}.json"


def fingerprint(config: Config, *sections: str, without: tuple[str, ...] = ()) -> str:
    """What a part is made with, as 16 hex characters: these sections of the configuration, or all of them.

    Folders do not count, so that a study can be moved.
    """
    tree = {name: value for name, value in to_dict(config).items() if name not in (*ASIDE, *without)}
    tree["data"] = {name: value for name, value in tree["data"].items() if name not in ("recordings", "store")}
    chosen = {name: tree[name] for name in sections} if sections else tree
    return digest(chosen)[:16]
