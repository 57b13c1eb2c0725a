"""What the pages for people say in code type: commands, settings, overrides; and their links and anchors."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = (".json", ".jsonl", ".yaml", ".png", ".py", ".toml", ".log", ".md", ".npz", ".mp4", ".jit", ".pt", ".html")
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))


def spans(page: Path) -> list[str]:
    """Everything on the page in code type, indented blocks by line and without what explains them."""
    text = page.read_text(encoding="utf-8")
    lines = [re.split(r"   +| +#", line.strip())[0] for line in text.splitlines() if line.startswith("    ")]
    return lines + re.findall(r"`([^`\n]+)`", text)


def commands(page: Path) -> list[str]:
    """Lines that begin with our command."""
    found = (span.removeprefix(".venv/bin/") for span in spans(page))
    return sorted({span for span in found if span.startswith("fastdreamer ") and "..." not in span})


def words(command: str) -> list[str]:
    """A command's words as a shell reads them: options in brackets are given, and of several choices the first."""
    line = re.sub(r" \| [^]]*", "", command)
    line = re.sub(r"\[(-[^]]*)\]", r"\1", line)
    line = re.sub(r"(?<=\S)\|\S+", "", line)
    return shlex.split(line.replace("--phase N", "--phase 1").replace(" PID", " 7"))[1:]


def overrides(page: Path) -> list[str]:
    """Settings with a value, alone in code type or behind a command of ours."""
    behind = [word for command in commands(page) for word in words(command)]
    found = {word for word in [*spans(page), *behind] if re.fullmatch(r"[a-z]\w*(\.\w+)*=\S+", word)}
    return sorted(word for word in found if not word.endswith("..."))


def settings(page: Path) -> list[str]:
    """Words of the form section.key, where the section could be one of the configuration's."""
    dotted = (span for span in spans(page) if re.fullmatch(r"[a-z]\w*\.\w+", span) and not span.endswith(FILES))
    return sorted(set(dotted))


def paths(page: Path) -> list[str]:
    """Folders and files of ours that the page names, as it names them; without a top folder those in Python."""
    pattern = r"[\w./-]+(/|\.py)|(fastdreamer|kernels|engines|bench|tests|configs|docs)/[\w./-]+"
    found = {word for span in spans(page) for word in span.split() if re.fullmatch(pattern, word)}
    return sorted(word for word in found if word.strip("./"))


def of_every_phase(text: str) -> list[str]:
    """The text for each phase that phaseN stands for."""
    return [text.replace("phaseN", f"phase{n}") for n in (1, 2, 3)] if "phaseN" in text else [text]


def links(page: Path) -> list[str]:
    """Targets of the page's links and pictures, but for those in the web; code is passed over."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[[^]]+\]: (\S+)", text, flags=re.MULTILINE)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """The anchors of the page's headings, as GitHub makes them: lower case, no punctuation, hyphens for spaces."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", text, flags=re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = sum(one == name or one.rpartition("-")[0] == name for one in found)
        found.add(f"{name}-{number}" if name in found else name)
    return found
