"""JSON files: what is wrong is said in a line that names file and key, whatever stands there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastdreamer.errors import UserError
from fastdreamer.system.json_files import COUNT, FLAG, NUMBER, TEXT, Every, Maybe, fault, read_loosely, read_object

SHAPE = {"a": NUMBER, "b?": [COUNT], "c?": Every({"d": Maybe(TEXT)}), "e?": FLAG, "f?": lambda value: value and "odd"}


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ({"a": 1.5, "b": [0, 3], "c": {"x y": {"d": None}}, "e": False, "f": 0, "more": []}, ""),
        ({"a": float("nan")}, ""),
        ([], "it is a list, not an object"),
        ({}, "it has no a"),
        ({"a": True}, "a is true, not a number"),
        ({"a": 4e305}, ""),
        ({"a": 10**4000}, "a is a number of many digits, not a number"),
        ({"a": 1, "b": [0, -1]}, "b[1] is -1, not a whole number from 0 on"),
        ({"a": 1, "b": {}}, "b is an object, not a list"),
        ({"a": 1, "c": {"x\x1b[2J": {"d": 5}}}, 'c."x\\u001b[2J".d is 5, not text'),
        ({"a": 1, "c": {"x": {}}}, "c.x has no d"),
        ({"a": 1, "e": 1}, "e is 1, not true or false"),
        ({"a": "y" * 60}, f'a is "{"y" * 39}..., not a number'),
        ({"a": 1, "f": 1}, "f: odd"),
    ],
)
def test_what_is_wrong_is_named(value: object, wrong: str) -> None:
    assert fault(value, SHAPE) == wrong


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"", "it is no JSON from line 1, column 1 on"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b'"\xff"', "it is not UTF-8"),
        (b'{"a": ' + b"9" * 5000 + b"}", "it holds a number of too many digits"),
        (b"[1]", "it is a list, not an object"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes, wrong: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_object(path, SHAPE, "do this")
    assert str(caught.value) == f"{path} is damaged ({wrong}): do this" and read_loosely(path) is None


def test_what_is_no_file_of_ones_own_is_not_read(tmp_path: Path) -> None:
    assert read_object(tmp_path / "none", SHAPE) == {}
    (tmp_path / "real").write_text('{"a": 1}')
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert read_object(tmp_path / "link", SHAPE) == {"a": 1}
    with pytest.raises(UserError, match="it is a link"):
        read_object(tmp_path / "link", SHAPE, follows_links=False)
    os.mkfifo(tmp_path / "fifo")  # nobody writes: an ordinary open would wait for ever
    (tmp_path / "folder").mkdir()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for name in ("fifo", "folder", "gone"):
        with pytest.raises(UserError, match=f"{name} is damaged"):
            read_object(tmp_path / name, SHAPE)
