"""How findings are put together and shown: engines that block, and engines that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastdreamer.config import load_config
from fastdreamer.tools.doctor.ask import Answer, Component, Task, ask
from fastdreamer.tools.doctor.examine import commands_of, engines_of, render, simulator_of

MEND = "fastdreamer build-engines --config crafter --backend aot-inductor --precision fp32"
ROW = {
    "tokenizer": "embedded-1", "part": "encoder", "backend": "aot-inductor", "target": "cpu", "precision": "fp32",
    "state": "stale", "reason": "was built with library torch 2.12", "mend": MEND, "blocks": True,
}  # fmt: skip


def found(row: dict[str, Any], **changed: str) -> Answer:
    return Answer({"root": "/engines", "rows": [row], "error": "", "lacking": ""} | changed)


@pytest.mark.parametrize("blocks", [True, False])
def test_only_an_engine_that_commands_would_take_keeps_them_from_running(blocks: bool) -> None:
    rows, part = engines_of(found(ROW | {"blocks": blocks}))
    assert part == Component("engines", "1 in /engines, 1 unusable", "wrong", MEND)
    parts = [part, Component("Minecraft", "")]
    ready = commands_of(load_config("crafter"), parts, rows, has_gpu=False)
    lacking = {row.command for row in ready if "engines" in row.lacks}
    assert lacking == ({"demo", "encode", "eval"} if blocks else set())
    text = render(
        {
            "parts": [one.to_dict() for one in parts],
            "engines": rows,
            "commands": [row.to_dict() for row in ready],
            "demo": not blocks,
            "refused": {"engines": part.found},
        }
    )
    assert "stale  encoder  aot-inductor  cpu  fp32  was built with library torch 2.12\n         -> " + MEND in text
    assert f"wrong: engines; fastdreamer demo {'cannot' if blocks else 'can'} run" in text


def test_sound_engines_missing_ones_and_unreadable_ones() -> None:
    sound = ROW | {"state": "verified", "mend": "", "reason": "", "blocks": False}
    assert engines_of(found(sound))[1] == Component("engines", "1 in /engines")
    assert engines_of(Answer(found(sound).value | {"rows": []}))[1].found == "none: eager runs the tokenizer"
    part = engines_of(found(sound, lacking="tensorrt"))[1]
    assert part.verdict == "missing" and "--backend tensorrt" in part.mend
    assert engines_of(found(sound, error="can be written by others"))[1].verdict == "wrong"
    assert engines_of(None)[1].verdict == engines_of(Answer({}, "RuntimeError: no"))[1].verdict == "wrong"


def test_the_first_thing_that_minecraft_lacks_is_said(monkeypatch, tmp_path: Path) -> None:
    task = Task("simulator", "simulator", {"env": "minerl_treechop", "backend": "auto"})
    part = simulator_of(ask([task])["simulator"])
    assert (part.found, part.verdict) == ("MineStudio is not installed", "missing")
    assert part.mend.startswith("pip install --no-deps minestudio")
    (tmp_path / "minestudio").mkdir()
    (tmp_path / "minestudio" / "__init__.py").write_text("raise RuntimeError('never imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    part = simulator_of(ask([task])["simulator"])
    assert part.found.startswith("no Java found") and "JDK 8" in part.mend
