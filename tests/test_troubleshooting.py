"""docs/troubleshooting.md names nothing that is not there: every setting, command, flag, curve and link."""

from __future__ import annotations

import importlib
import re

import pytest
from pages import ROOT, commands, of_every_phase, overrides, settings, spans, words

from fastdreamer.cli import build_parser
from fastdreamer.config import Config, load_config
from fastdreamer.settings import to_dict

PAGE = ROOT / "docs" / "troubleshooting.md"


@pytest.mark.parametrize("line", commands(PAGE))
def test_every_command_parses(line: str) -> None:
    _, rest = build_parser().parse_known_args(words(line))
    for word in rest:
        load_config("minerl_cosmos", [word])


@pytest.mark.parametrize("name", settings(PAGE))
def test_every_setting_exists(name: str) -> None:
    section, _, key = name.partition(".")
    tree = to_dict(Config())
    for one in of_every_phase(section):
        assert key in tree[one], name


@pytest.mark.parametrize("text", overrides(PAGE))
def test_every_override_is_accepted(text: str) -> None:
    for one in of_every_phase(text):
        load_config("minerl_cosmos", [one])


def test_every_curve_and_name_of_python_exists() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "fastdreamer").rglob("*.py"))
    bare = {span for span in spans(PAGE) if re.fullmatch(r"[a-z]+(_[a-z]+)+|[a-z_]+/[a-z_]+", span)}
    assert len(bare) > 10
    for span in bare - {"held_out/bc_accuracy"}:
        term = span.rpartition("/")[2] if span.startswith("loss/") else span
        assert re.search(rf"\b{re.escape(term)}\b", source), span
    for span in (span for span in spans(PAGE) if re.fullmatch(r"fastdreamer(\.\w+){2,}", span)):
        module, _, name = span.rpartition(".")
        assert hasattr(importlib.import_module(module), name)


def test_the_page_is_read_whole_and_linked() -> None:
    assert len(commands(PAGE)) > 15 and len(settings(PAGE)) > 35 and len(overrides(PAGE)) > 10
    for page in (ROOT / "README.md", ROOT / "docs" / "profiling.md"):
        assert "troubleshooting.md" in page.read_text(encoding="utf-8"), page
    symptoms = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert len(symptoms) > 40 and all(line.endswith(" |") for line in symptoms)
