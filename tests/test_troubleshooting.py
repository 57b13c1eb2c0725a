"""docs/troubleshooting.md names nothing that is not there: every setting, command, flag, curve and link."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from fastdreamer.cli import build_parser
from fastdreamer.config import Config
from fastdreamer.settings import load_config, to_dict

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
FILES = (".json", ".jsonl", ".yaml", ".png", ".py", ".toml", ".log", ".md")


def spans() -> list[str]:
    """Everything on the page in code type, indented blocks by line."""
    text = PAGE.read_text(encoding="utf-8")
    lines = [line.strip().partition("   ")[0] for line in text.splitlines() if line.startswith("    ")]
    return lines + re.findall(r"`([^`\n]+)`", text)


def commands() -> list[str]:
    return sorted({span for span in spans() if span.startswith("fastdreamer ")})


def overrides() -> list[str]:
    words = [word for span in spans() for word in span.split() if re.fullmatch(r"[a-z]\w*(\.\w+)*=\S+", word)]
    return sorted(set(words))


def settings() -> list[str]:
    dotted = (span for span in spans() if re.fullmatch(r"[A-Za-z]\w*\.\w+", span) and not span.endswith(FILES))
    return sorted({name for name in dotted if name[0].islower()})


def of_every_phase(text: str) -> list[str]:
    return [text.replace("phaseN", f"phase{n}") for n in (1, 2, 3)] if "phaseN" in text else [text]


@pytest.mark.parametrize("line", commands())
def test_every_command_parses(line: str) -> None:
    words = re.sub(r"\[([^]=|]*)\]", r"\1", line).replace("--phase N", "--phase 1").replace(" PID", " 7").split()[1:]
    _, rest = build_parser().parse_known_args(words)
    for word in rest:
        load_config("minerl_cosmos", [word])


@pytest.mark.parametrize("name", settings())
def test_every_setting_exists(name: str) -> None:
    section, _, key = name.partition(".")
    tree = to_dict(Config())
    for one in of_every_phase(section):
        assert key in tree[one], name


@pytest.mark.parametrize("text", overrides())
def test_every_override_is_accepted(text: str) -> None:
    for one in of_every_phase(text):
        load_config("minerl_cosmos", [one])


def test_every_curve_and_name_of_python_exists() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "fastdreamer").rglob("*.py"))
    bare = {span for span in spans() if re.fullmatch(r"[a-z]+(_[a-z]+)+|[a-z_]+/[a-z_]+", span)}
    assert len(bare) > 10
    for span in bare - {"held_out/bc_accuracy"}:
        term = span.rpartition("/")[2] if span.startswith("loss/") else span
        assert re.search(rf"\b{re.escape(term)}\b", source), span
    for span in (span for span in spans() if re.fullmatch(r"fastdreamer(\.\w+){2,}", span)):
        module, _, name = span.rpartition(".")
        assert hasattr(importlib.import_module(module), name)


def test_the_page_is_read_whole_and_linked() -> None:
    assert len(commands()) > 15 and len(settings()) > 35 and len(overrides()) > 10
    for page in (ROOT / "README.md", ROOT / "docs" / "profiling.md"):
        assert "troubleshooting.md" in page.read_text(encoding="utf-8"), page
    symptoms = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert len(symptoms) > 40 and all(line.endswith(" |") for line in symptoms)
