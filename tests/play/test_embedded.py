"""The world that ships with the package: small, whole, honest of itself, and playable where nothing can be written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from fastdreamer.commands.play_command import EMBEDDED
from fastdreamer.latents.store import LatentStore
from fastdreamer.play.loaded import load
from fastdreamer.play.session import Session
from fastdreamer.run.directory import RunDirectory
from fastdreamer.settings import differences
from fastdreamer.system.files import sha256_file

CARD = json.loads((EMBEDDED / "card.json").read_text())
MOST_BYTES = 10_000_000


def test_it_is_small_and_every_file_is_what_the_card_says() -> None:
    files = {path.relative_to(EMBEDDED).as_posix(): path for path in EMBEDDED.rglob("*") if path.is_file()}
    assert files.keys() == {*CARD["sha256"], "card.json"}
    assert {name: sha256_file(files[name]) for name in CARD["sha256"]} == CARD["sha256"]
    assert sum(path.stat().st_size for path in files.values()) < MOST_BYTES
    assert not any("/tmp" in path.read_text() for path in files.values() if path.suffix in (".json", ".yaml"))


def test_it_is_better_than_copying_at_every_horizon_of_its_window() -> None:
    open_loop, config = CARD["open_loop"], RunDirectory(EMBEDDED).config()
    assert open_loop["horizons"] == list(range(1, config.dynamics.window - open_loop["context"] + 1))
    assert all(ratio["high"] < 1 for ratio in open_loop["one_sample_over_copy"])


def test_it_tells_its_data_its_steps_and_its_returns() -> None:
    config = RunDirectory(EMBEDDED).config()
    assert {phase: told["steps"] for phase, told in CARD["phases"].items()} == {
        "0": config.decoder.steps, "1": config.phase1.steps, "2": config.phase2.steps, "3": config.phase3.steps
    }  # fmt: skip
    assert CARD["data"]["recorded"]["chance"] == "held" and set(CARD["data"]["players"]) == {
        "expert",
        "noisy",
        "random",
    }
    assert sum(kind["episodes"] for kind in CARD["data"]["players"].values()) == config.record.episodes
    assert {"random", "phase2", "phase3"} <= CARD["returns"]["wood"].keys() and CARD["data"]["licence"].startswith(
        "MIT"
    )


def test_it_is_what_the_preset_makes() -> None:
    from fastdreamer.config import load_config

    assert differences(load_config("crafter_play"), RunDirectory(EMBEDDED).config()) == {}


def test_its_recordings_were_held_out() -> None:
    store = LatentStore.open(EMBEDDED / "store")
    assert [episode.split for episode in store.episodes] == ["held_out"] * 3
    assert {recording.name for recording in (EMBEDDED / "recordings").glob("*/*")} == {e.name for e in store.episodes}


def test_it_is_played_where_nothing_can_be_written_and_writes_nothing(tmp_path: Path) -> None:
    world = shutil.copytree(EMBEDDED, tmp_path / "world")
    for path in (*world.rglob("*"), world):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: path.stat().st_mtime_ns for path in (world, *world.rglob("*"))}
    try:
        session = Session(load(world), seed=0)
        said = session.describe()
        assert said["players"] == ["you", "phase2", "phase3", "random", "recorded"] and said["has_environment"]
        assert "error" in said["card"] and len(said["recordings"]) == 3
        view = session.step([1])
        assert view.real is not None and view.said["drift"]["dream"] < 0.5
        assert session.start(recording=0, step=40).real is not None and len(session.filmstrip(1)[0]) > 10
        assert session.step([0]).said["dreamed"] == 1
        session.close()
        assert {path: path.stat().st_mtime_ns for path in (world, *world.rglob("*"))} == before
    finally:
        for path in (world, *world.rglob("*")):
            path.chmod(0o755)


def test_the_weights_that_only_training_needs_are_not_there() -> None:
    for phase in range(4):
        (newest,) = (EMBEDDED / "checkpoints" / f"phase{phase}").iterdir()
        assert {path.name for path in newest.iterdir()} == {"ema.safetensors", "manifest.json", "state.json"}
