"""Rooms and what they import, read from the code; and the diagram of it in docs/architecture.md.

    python tests/architecture.py [--write]

A room is a folder below `fastdreamer/` (those below `tools/` and `tokenizer/` are rooms of their own), or a file that
lies there by itself. Lazy imports and those for types count.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms: python tests/architecture.py --write -->\n", "<!-- /rooms -->"
SOURCES = {"fastdreamer": ROOT, "fastdreamer_kernels": ROOT / "kernels", "fastdreamer_engines": ROOT / "engines"}

ORDER = (
    "fastdreamer_kernels", "fastdreamer_engines", "errors", "ranks", "system", "shapes", "settings", "config", "device",
    "plotting", "recordings", "latents", "tokenizer", "tokenizer.fitting", "tokenizer.engines", "encoding", "envs",
    "dynamics", "heads", "imagination", "run", "health", "training", "evaluation", "report",
    "tools.doctor", "tools.planning", "tools.profiling", "tools.diagnosis", "tools.packing", "demo", "study", "api",
    "play", "commands", "cli", "__main__",
)  # fmt: skip
"""A room may import those before it."""
EVERYWHERE = ("errors", "ranks", "system", "shapes", "settings", "config", "device")
"""Too common for a diagram."""


def modules() -> dict[str, Path]:
    """Every module of ours, by its dotted name."""
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"): path
        for top, folder in SOURCES.items()
        for path in sorted((folder / top).rglob("*.py"))
    }


def room(module: str) -> str:
    """fastdreamer.latents.store -> latents; fastdreamer.tools.doctor.ask -> tools.doctor; "" for the package itself."""
    top, *parts = module.split(".")
    if top != "fastdreamer":
        return top
    is_nested = len(parts) > 1 and f"{parts[0]}.{parts[1]}" in ORDER
    return ".".join(parts[: 1 + is_nested])


def imports() -> dict[str, set[str]]:
    """What each module imports of ours."""
    known = modules()
    found: dict[str, set[str]] = {name: set() for name in known}
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                if node.level:
                    raise ValueError(f"{path}: relative import; write the package's full name")
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [target if target in known else str(node.module) for target in whole]
            else:
                continue
            found[name].update(target for target in targets if target in known and target != name)
    return found


def room_imports() -> dict[str, set[str]]:
    """What each room imports of the others, in `ORDER`."""
    found: dict[str, set[str]] = {}
    for module, targets in imports().items():
        own = room(module)
        found.setdefault(own, set()).update(other for other in map(room, targets) if other not in (own, ""))
    return {name: found[name] for name in sorted(found, key=lambda name: (name in ORDER and ORDER.index(name), name))}


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """The first circle that is found, or nothing."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            if found := visit(other, [*way, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


def diagram() -> str:
    """Mermaid: an arrow from what imports to what it imports, but for what follows from other arrows."""
    graph = {name: own - set(EVERYWHERE) for name, own in room_imports().items() if name not in (*EVERYWHERE, "")}
    lines = ["```mermaid", "flowchart TD"]
    for name, own in graph.items():
        beyond = {far for near in own for far in reach(graph, near)}
        lines += [f"    {_node(name)} --> {_node(other)}" for other in ORDER if other in own - beyond]
    return "\n".join([*lines, "```", ""])


def reach(graph: Mapping[str, set[str]], name: str) -> set[str]:
    """What a room imports by way of others."""
    own = graph.get(name, set())
    return own.union(*(reach(graph, other) for other in own))


def _node(name: str) -> str:
    return f'{name.replace(".", "_").strip("_")}["{name}"]'


def in_page(text: str) -> str:
    """The page with today's diagram."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}{diagram()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    if "--write" in sys.argv:
        PAGE.write_text(in_page(page), encoding="utf-8")
    raise SystemExit(0 if "--write" in sys.argv or in_page(page) == page else f"{PAGE} is not what the code says")
