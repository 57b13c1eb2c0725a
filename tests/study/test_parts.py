"""Parts are done once, by what they are made with."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastdreamer.config import load_config
from fastdreamer.errors import UserError
from fastdreamer.study.parts import Parts, fingerprint


def parts_in(folder: Path) -> Parts:
    return Parts(folder, lambda line: None)


def test_a_part_is_done_once_and_by_another_process_not_again(tmp_path: Path) -> None:
    did: list[int] = []

    def work() -> dict[str, int]:
        did.append(1)
        return {"value": len(did)}

    for _ in range(2):
        assert parts_in(tmp_path).run("seed-0/phase1", "x", work) == {"value": 1}
    assert set(parts_in(tmp_path).seconds()) == {"seed-0/phase1"}
    with pytest.raises(UserError, match="was made with other settings"):
        parts_in(tmp_path).run("seed-0/phase1", "y", work)
    assert parts_in(tmp_path).run("seed-0/phase1", "y", work, again=True) == {"value": 2}


def test_a_part_that_fails_is_not_written_down(tmp_path: Path) -> None:
    def fail() -> dict[str, int]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        parts_in(tmp_path).run("a", "x", fail)
    assert parts_in(tmp_path).read("a") is None and parts_in(tmp_path).run("a", "x", lambda: {"b": 1}) == {"b": 1}


@pytest.mark.parametrize(
    "text", ["", "[]", '{"made_with": "x", "seconds": 1}', '{"made_with": 1, "seconds": 1, "result": 2}']
)
def test_a_damaged_part_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match="a.json is damaged.*move it away"):
        parts_in(tmp_path).run("a", "x", lambda: {})


def test_a_part_whose_content_was_changed_is_named_and_one_of_before_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    parts_in(tmp_path).run("a", "x", lambda: {"value": 12})
    path.write_text(path.read_text().replace("12", "13"))
    with pytest.raises(UserError, match="a.json is damaged.*not what was written"):
        parts_in(tmp_path).run("a", "x", lambda: {})
    path.write_text('{"made_with": "x", "seconds": 1.5, "result": {"value": 12}}')
    assert parts_in(tmp_path).run("a", "x", lambda: {}) == {"value": 12}


def test_folders_and_the_device_do_not_count_what_is_learned_does() -> None:
    base = load_config("debug")

    def print_of(*overrides: str) -> str:
        return fingerprint(load_config("debug", overrides), without=("evaluation", "study"))

    same = print_of("data.store=/elsewhere", "device=cpu", "engines.backend=eager", "evaluation.episodes=7")
    assert same == print_of() != print_of("seed=1") != print_of("dynamics.dim=64")
    assert fingerprint(base, "record", "data") == fingerprint(load_config("debug", ["seed=1"]), "record", "data")
