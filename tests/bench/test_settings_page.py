"""docs/settings.md is what the dataclasses say, whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bench.settings_page import PAGE, comments, page
from fastdreamer.config import Config, TokenizerConfig, load_config
from fastdreamer.run.kept_config import check_run
from fastdreamer.settings import config_text, to_dict
from fastdreamer.settings.fields import setting


def test_the_page_is_that_of_the_dataclasses() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m bench.settings_page --write"


def sections(name: str) -> list[str]:
    """The headings' tables that a section's settings stand in."""
    parts = page().split("\n## ")[1:]
    return [part for part in parts if name in part.partition("\n")[0].split(", ")]


def test_every_setting_has_a_line_with_its_default() -> None:
    for section, value in to_dict(Config()).items():
        tree = value if isinstance(value, dict) else {section: value}
        tables = "".join(sections(section if isinstance(value, dict) else "Without a section"))
        for name, default in tree.items():
            shown = str(default).lower() if isinstance(default, bool) else '""' if default == "" else default
            line = next(line for line in tables.splitlines() if line.startswith(f"| `{name}` |"))
            assert f" | `{shown}` | " in line, (section, name)


def test_what_the_page_says_of_changes_is_what_a_run_refuses(tmp_path: Path) -> None:
    """Of one setting of each kind; the run's own check decides."""
    (tmp_path / "config.yaml").write_text(config_text(load_config("debug")))
    trained, cloned = (tmp_path / "checkpoints" / phase / "step-00000001" for phase in ("phase1", "phase2"))
    trained.mkdir(parents=True)
    said = {"dynamics.dim=64": "no", "phase1.steps=7": "yes", "tasks.names=[wood]": "until phase 2"}
    for override, word in said.items():
        section, _, name = override.partition("=")[0].partition(".")
        assert f"| `{name}` |" in "".join(sections(section))
        line = next(line for line in sections(section)[0].splitlines() if line.startswith(f"| `{name}` |"))
        assert line.endswith(f"| {word} |")
        for is_cloned in (False, True):
            if is_cloned:
                cloned.mkdir(parents=True)
            if word == "yes" or (word == "until phase 2" and not is_cloned):
                check_run(tmp_path, load_config("debug", [override]))
            else:
                with pytest.raises(Exception, match=f"{section}.{name}"):
                    check_run(tmp_path, load_config("debug", [override]))
            if is_cloned:
                cloned.rmdir()


def test_a_setting_without_a_comment_is_named() -> None:
    @dataclasses.dataclass(frozen=True)
    class Sample:
        # What stands above
        # the first.
        first: int = setting(1, at_least=1)
        second: str = "x"  # c: beside the second
        third: float = 0.5

    with pytest.raises(ValueError, match=r"Sample\.third"):
        comments(Sample)
    assert comments(TokenizerConfig)["frames_per_latent"].startswith("c: ")
