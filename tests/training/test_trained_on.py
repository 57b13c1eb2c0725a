"""A run over a store that changed says so, also on --resume."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from fastdreamer.config import Config
from fastdreamer.latents.journal import JOURNAL
from fastdreamer.latents.manifest import write_manifest
from fastdreamer.latents.store import LatentStore, read_manifest
from fastdreamer.run.run_files import TRAINED_ON
from fastdreamer.training import train as module
from fastdreamer.training.phase_data import changes_since, note

from .conftest import relabel

Change = Callable[[dict[str, Any]], object]
CHANGES: dict[str, tuple[Change, str]] = {
    "gone": (lambda m: m["episodes"].pop("synthetic-001"), "1 gone"),
    "new": (lambda m: m["episodes"].update(x=m["episodes"]["synthetic-001"]), "1 new"),
    "moved": (
        lambda m: [e.update(split="held_out" if e["split"] == "train" else "train") for e in m["episodes"].values()],
        r"3 in the other split \(the first: synthetic-000\)",
    ),
    "renumbered": (lambda m: m["episodes"]["synthetic-002"].update(task=1), "1 of another task number"),
}


def changed(run: Path, change: Change) -> str:
    manifest = read_manifest(run / "store")
    change(manifest)
    write_manifest(run / "store", manifest)
    return changes_since(run, LatentStore.open(run / "store"))


@pytest.mark.parametrize("what", CHANGES)
def test_each_change_is_named(small: Callable[..., Config], new_run: Callable[..., Path], what: str) -> None:
    run = new_run(small())
    store = LatentStore.open(run / "store")
    assert changes_since(run, store) == "", "nothing is known of before"
    note(run, store)
    assert changes_since(run, LatentStore.open(run / "store")) == ""
    change, words = CHANGES[what]
    said = changed(run, change)
    assert re.search(words, said) and "\n" not in said, said


def test_other_latents_of_the_same_name_are_named(small: Callable[..., Config], new_run: Callable[..., Path]) -> None:
    run = new_run(small())
    store = LatentStore.open(run / "store")
    note(run, store)
    relabel(run / "store", lambda number: {"rewards": store.episodes[number].rewards + 1} if number == 1 else {})
    assert "1 encoded anew" in changes_since(run, LatentStore.open(run / "store"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"episodes": 1}', "[" * 5000, "\xff"])
def test_a_damaged_note_is_said_and_stops_nothing(
    small: Callable[..., Config], new_run: Callable[..., Path], text: str
) -> None:
    run = new_run(small())
    (run / TRAINED_ON.name).write_text(text, encoding="latin-1")
    store = LatentStore.open(run / "store")
    assert "not known" in changes_since(run, store)
    note(run, store)
    assert changes_since(run, store) == ""


def test_training_says_it_before_and_after(
    small: Callable[..., Config], new_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    config = small()
    run = new_run(config)
    built: Any = SimpleNamespace(model=nn.Linear(1, 1))
    monkeypatch.setattr(module, "build_phase", lambda *a: built)
    monkeypatch.setattr(module, "fit", lambda *a, **k: {})
    monkeypatch.setattr(module.RunDirectory, "step", lambda self, phase: 0)
    assert "store" not in module.train(config, run, 1, draws=False) and "changed" not in capsys.readouterr().out
    manifest = read_manifest(run / "store")
    manifest["episodes"].pop("synthetic-002")
    write_manifest(run / "store", manifest)
    result = module.train(config, run, 1, draws=False)
    said = capsys.readouterr().out
    assert "changed since this run was last trained on it; episodes: 1 gone" in said and result["store"] in said
    (run / "store" / JOURNAL).write_bytes(b"")
    assert "store" not in module.train(config, run, 1, draws=False)
    assert "store is not finished" in capsys.readouterr().out
