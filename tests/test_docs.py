"""The pages for people: every link leads somewhere, nothing is named that is not there, and the README stays a door."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pages import PAGES, ROOT, anchors, commands, links, of_every_phase, overrides, paths, settings, words

from fastdreamer.cli import build_parser
from fastdreamer.commands import COMMANDS
from fastdreamer.config import Config, load_config
from fastdreamer.settings import to_dict

MOST_LINES = MOST_COLUMNS = 120
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def broken(page: Path) -> list[str]:
    """Links of the page that lead to no file of the repository, or to no heading of theirs."""
    found = []
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        is_ours = target.is_relative_to(ROOT) and target.exists()
        if not is_ours or (anchor and (target.suffix != ".md" or anchor not in anchors(target))):
            found.append(link)
    return found


@pages
def test_every_link_and_anchor_leads_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_a_link_to_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside.md").write_text("# There, but no file of ours\n")
    page, other = root / "page.md", root / "other.md"
    other.write_text("# One, two\n\n## `code` and [a link](x.md)\n\n## Twice\n\n## Twice\n")
    good = ["other.md", "other.md#one-two", "other.md#code-and-a-link", "other.md#twice-1", "#here", "https://x"]
    bad = ["gone.md", "other.md#three", "../outside.md", "#nowhere", "picture.png"]
    page.write_text("# Here\n\n`[code](gone.md)`\n\n" + "\n".join(f"[p]({link})" for link in good + bad))
    monkeypatch.setitem(globals(), "ROOT", root)
    assert broken(page) == bad


@pages
def test_every_command_parses(page: Path) -> None:
    for line in commands(page):
        if len(words(line)) == 1 and words(line)[0] in COMMANDS:
            continue  # named, not called
        try:
            parsed, rest = build_parser().parse_known_args(words(line))
        except SystemExit:
            pytest.fail(f"{page.name}: {line}")
        given = getattr(parsed, "config", None) or "minerl_cosmos"
        for word in rest:
            load_config("minerl_cosmos" if given.endswith((".yaml", "NAME")) else given, [word])


@pages
def test_every_setting_and_override_is_known(page: Path) -> None:
    tree = to_dict(Config())
    for name in settings(page):
        section, _, key = name.partition(".")
        for one in of_every_phase(section):
            assert one not in tree or not isinstance(tree[one], dict) or key in tree[one], name
    for text in overrides(page):
        for one in of_every_phase(text):
            if "." in one.partition("=")[0] or one.partition("=")[0] in tree:  # else a keyword of Python
                load_config("minerl_cosmos", [one])


def there() -> set[str]:
    """Every file of the repository with each of its folders, the latter with a slash behind, from the root."""
    found = set[str]()
    for folder, below, files in os.walk(ROOT):
        below[:] = [name for name in below if name not in ("__pycache__", "runs", "build", "dist") and name[0] != "."]
        place = Path(folder).relative_to(ROOT)
        found |= {f"/{place / name}" for name in files}
        found |= {f"/{above}/" for above in (place, *place.parents) if files}
    return found


def not_there(page: Path, there: set[str]) -> list[str]:
    """Paths on the page that no file or folder has, though they may leave out the folders in front."""
    return [name for name in paths(page) if not any(one.endswith((f"/{name}", f"/{name}/")) for one in there)]


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_every_path_for_contributors_exists(name: str) -> None:
    assert len(paths(ROOT / name)) > 8 and not_there(ROOT / name, there()) == []


def test_a_path_to_nothing_is_told(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("`find.py`, `fastdreamer/recordings/`, `fastdreamer/data/`, `python tests/gone.py --write`, `1/2`")
    assert not_there(page, there()) == ["fastdreamer/data/", "tests/gone.py"]


def test_the_pages_are_read() -> None:
    assert len(PAGES) > 15 and sum(len(links(page)) for page in PAGES) > 80
    assert sum(len(commands(page)) for page in PAGES) > 60 and sum(len(settings(page)) for page in PAGES) > 100


def test_the_readme_is_a_door() -> None:
    """Short, without walls of text, and with a way to every page."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MOST_LINES
    assert [line for line in lines if len(line) > MOST_COLUMNS and not line.startswith("|")] == []
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md")}
    assert [page.name for page in PAGES[1:] if page not in linked] == []


def test_no_paragraph_is_a_wall_of_text() -> None:
    """The two pages that strangers meet first have short paragraphs."""
    for page in PAGES[:2]:
        paragraphs = page.read_text(encoding="utf-8").split("\n\n")
        long = [text for text in paragraphs if len(text.splitlines()) > 8 and text.lstrip()[0] not in "|*1`"]
        assert long == [], page.name
