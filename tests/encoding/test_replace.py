"""A store that was made otherwise gives way to a new one, whatever stops the work, and never before it is whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fastdreamer.config import Config
from fastdreamer.encoding import replace as module
from fastdreamer.encoding.replace import replace_store
from fastdreamer.errors import UserError
from fastdreamer.latents.manifest import FOLDER, MANIFEST, OtherStore

NEW = "new key"


class Encoder:
    """Stands in the place of `encode_recordings`: writes two episodes, and stops where it is told to."""

    def __init__(self) -> None:
        self.stop_after: int | None = None
        self.calls: list[Path] = []

    def __call__(self, config: Config, recordings: Path, store: Path, tokenizer: Any, heirlooms: Any = None) -> Any:
        self.calls.append(store)
        (store / FOLDER).mkdir(parents=True, exist_ok=True)
        if (store / MANIFEST).exists() and json.loads((store / MANIFEST).read_text()) != NEW:
            raise OtherStore("made with another key")
        for number in range(2):
            if number == self.stop_after:
                raise UserError("the disk is full")
            (store / FOLDER / f"{number}").write_text(NEW)
            (store / MANIFEST).write_text(json.dumps(NEW))
        return {"episodes": 2}


@pytest.fixture
def encoder(monkeypatch) -> Encoder:
    found = Encoder()
    monkeypatch.setattr(module, "encode_recordings", found)
    return found


@pytest.fixture
def store(tmp_path) -> Path:
    folder = tmp_path / "my store"
    (folder / FOLDER).mkdir(parents=True)
    (folder / MANIFEST).write_text('"old key"')
    (folder / FOLDER / "precious").write_text("old")
    return folder


def run(store: Path) -> dict[str, Any]:
    tokenizer: Any = object()
    return replace_store(Config(), Path("recordings"), store, tokenizer)


def is_new(store: Path) -> bool:
    return json.loads((store / MANIFEST).read_text()) == NEW and not (store / FOLDER / "precious").exists()


def test_a_store_of_another_key_is_replaced_and_nothing_is_left_over(store, encoder):
    assert run(store) == {"episodes": 2}
    assert is_new(store) and [path.name for path in store.parent.iterdir()] == ["my store"]
    calls = len(encoder.calls)
    assert run(store) == {"episodes": 2} and is_new(store)  # pasted twice: it goes on with what is current
    assert encoder.calls[calls:] == [store]


def test_what_stops_the_work_leaves_the_old_store_and_the_same_call_goes_on(store, encoder):
    encoder.stop_after = 1
    with pytest.raises(UserError, match="the disk is full"):
        run(store)
    assert (store / FOLDER / "precious").read_text() == "old"
    (begun,) = [path for path in store.parent.iterdir() if path != store]
    assert (begun / FOLDER / "0").exists()
    encoder.stop_after = None
    run(store)
    assert is_new(store) and [path.name for path in store.parent.iterdir()] == ["my store"]


@pytest.mark.parametrize("moment", [1, 2])
def test_a_kill_between_the_renames_loses_nothing(store, encoder, monkeypatch, moment):
    rename, renamed = os.rename, []

    def killed(old: Any, new: Any) -> None:
        renamed.append(new)
        if len(renamed) == moment:
            raise KeyboardInterrupt
        rename(old, new)

    monkeypatch.setattr(module.os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        run(store)
    kept = {path.read_text() for path in store.parent.rglob("*") if path.is_file() and path.name in ("precious", "0")}
    assert kept == {"old", NEW}
    monkeypatch.setattr(module.os, "rename", rename)
    run(store)
    assert is_new(store) and [path.name for path in store.parent.iterdir()] == ["my store"]


def test_what_another_replacing_left_unfinished_gives_way(store, encoder):
    begun = store.with_name(".my store.new")
    begun.mkdir()
    (begun / MANIFEST).write_text('"a third key"')
    run(store)
    assert is_new(store) and not begun.exists()


def test_a_link_stays_and_what_it_leads_to_is_replaced(store, encoder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link"
    link.symlink_to(store)
    run(link)
    assert link.is_symlink() and is_new(store) and list((tmp_path / "elsewhere").iterdir()) == [link]


def test_a_folder_that_holds_other_things_is_refused(store, encoder):
    (store / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds thesis.tex, which is no part of a latent store: choose another --store"):
        run(store)
    assert (store / "thesis.tex").exists() and (store / FOLDER / "precious").exists()
