"""Demonstrator, noisier demonstrator and random play by stated shares, told by the seed alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from random import Random

import numpy as np
import pytest

from fastdreamer.config import Config, RecordConfig, load_config
from fastdreamer.envs.mix import HELD_STEPS, KIND_WEIGHTS, Chance, kind_of, player_of, random_action
from fastdreamer.envs.record import SHOWN, _identity, play, record
from fastdreamer.errors import UserError
from fastdreamer.recordings.read import find_recordings
from fastdreamer.tokenizer.fitting.origins import recorded_by

from .conftest import World

pytest.importorskip("crafter")

MIXED = RecordConfig(max_steps=12, noise=0.1, noisy_share=0.25, random_share=0.25)


def kinds(settings: RecordConfig, seeds: range) -> list[str]:
    return [player_of(seed, settings).kind for seed in seeds]


@pytest.mark.parametrize(("noisy", "random"), [(0.25, 0.25), (0.3, 0.1), (0.7, 0.3), (1, 0), (0, 1), (1 / 3, 1 / 3)])
def test_any_run_of_worlds_has_about_the_shares(noisy: float, random: float) -> None:
    found = kinds(RecordConfig(noisy_share=noisy, random_share=random), range(700))
    for first in range(0, 600, 7):
        for count in (1, 10, 48):
            part = Counter(found[first : first + count])
            assert abs(part["noisy"] - noisy * count) <= 1 and abs(part["random"] - random * count) <= 1
    assert set(found) == {
        name for name, share in (("noisy", noisy), ("random", random), ("expert", 1 - noisy - random)) if share > 1e-9
    }


def test_without_shares_one_player_plays_all() -> None:
    assert set(kinds(RecordConfig(), range(100))) == {"expert"}
    assert set(kinds(RecordConfig(policy="random"), range(100))) == {"random"}
    assert player_of(5, RecordConfig(noise=0.2)).noise == 0.2


@pytest.mark.parametrize(
    ("overrides", "refusal"),
    [
        (["record.noisy_share=0.7", "record.random_share=0.4"], "1.1 together; they must be at most 1"),
        (["record.policy=random", "record.noisy_share=0.1"], "shares of the expert's worlds"),
    ],
)
def test_shares_that_contradict_are_refused(overrides: list[str], refusal: str) -> None:
    with pytest.raises(UserError, match=refusal):
        load_config("debug", overrides)


def test_a_mix_is_recorded_resumed_and_not_mixed_with_another(tmp_path: Path, world: World) -> None:
    settings = RecordConfig(episodes=2, max_steps=60, noisy_share=0.5, noisy_noise=0.2, random_share=0.5)
    result = record(Config(record=settings), tmp_path)
    names = sorted(recording.name for recording in find_recordings(tmp_path))
    assert [(kind_of(name), name.split("_")[2]) for name in names] == [("noisy", "crafter-1"), ("random", "crafter-0")]
    told = [json.loads((tmp_path / "Crafter-expert" / name / "metadata.json").read_text()) for name in names]
    assert [(metadata["policy"], metadata["noise"]) for metadata in told] == [("expert", 0.2), ("random", 1.0)]
    assert told[0]["gains"] == play(world(1, 60), settings).metadata["gains"] != {}
    for row, metadata, kind in zip(result["players"], told, ("noisy", "random"), strict=True):
        gains = {name: metadata["gains"].get(name, 0) for name in ("wood", "sapling", "drink", "stone")}
        assert row == {"player": kind, "episodes": 1, "return_mean": metadata["total_reward"], **gains}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert {**record(Config(record=settings), tmp_path), "seconds": 0} == {**result, "seconds": 0}
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")} == before
    with pytest.raises(UserError, match="was recorded with noise 0.2, not 0.05"):
        record(Config(record=replace(settings, noisy_share=0.0, random_share=0.0)), tmp_path)


def test_what_records_needs_no_torch() -> None:
    """Every worker would import it, which takes longer than an episode."""
    code = "import sys, fastdreamer.envs.record, fastdreamer.recordings.writer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_tokenizers_card_does_not_take_a_mix_for_a_run_of_worlds() -> None:
    origins = [
        {"env": "e", "seed": seed, "policy": player.policy, "noise": player.noise, "max_steps": 12}
        for seed, player in ((seed, player_of(seed, MIXED)) for seed in range(8))
    ]
    assert recorded_by(origins) == [
        "fastdreamer record --policy expert record.max_steps=12 record.noise=0.1: 4 of the seeds 0 to 7",
        "fastdreamer record --policy random record.max_steps=12: 2 of the seeds 1 to 5",
        "fastdreamer record --policy expert record.max_steps=12 record.noise=0.5: 2 of the seeds 2 to 6",
    ]
    same = [origin | {"noise": 0.0, "policy": "expert"} for origin in origins]
    assert recorded_by(same) == [
        "fastdreamer record --policy expert record.max_steps=12 record.noise=0.0 --seed 0 --episodes 8"
    ]


def test_recordings_of_before_counters_are_kept_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "Crafter-random" / "v3_random_crafter-0_0-9"
    folder.mkdir(parents=True)
    metadata = {"total_reward": 2.0, "duration_steps": 9, "achievements": [], "seed": 0, "policy": "random"}
    (folder / "metadata.json").write_text(json.dumps({**metadata, "noise": 1.0, "max_steps": 9}))
    result = record(Config(record=RecordConfig(policy="random", episodes=1, max_steps=9)), tmp_path)
    (row,) = result["players"]
    assert row == {"player": "random", "episodes": 1, "return_mean": 2.0} | dict.fromkeys(SHOWN, "")
    assert f"note: 1 episodes in {folder.parent} have no counters" in capsys.readouterr().out


def test_chance_by_kinds_tries_each_kind_by_its_weight_and_all_actions() -> None:
    names = ("noop", "move_left", "move_right", "do", "sleep", "place_stone", "place_table", "make_wood_sword")
    drawn = [names[random_action("kinds", random, names)] for random in [Random(0)] for _ in range(12000)]
    counts = Counter(name.split("_")[0] for name in drawn)
    assert set(drawn) == set(names)
    for kind, weight in KIND_WEIGHTS.items():
        assert abs(counts[kind] - 1000 * weight) < 150, kind


def test_chance_of_noisy_and_random_play_is_remembered_and_the_demonstrators_stays() -> None:
    settings = replace(MIXED, chance="kinds")
    assert {player_of(seed, settings).chance for seed in range(8)} == {"uniform", "kinds"}
    for seed in range(8):
        player = player_of(seed, settings)
        assert (player.chance == "kinds") is (player.kind != "expert")
        assert _identity(seed, settings).get("chance", "uniform") == player.chance
        assert "chance" not in _identity(seed, MIXED)


NAMES = ("noop", "move_left", "move_right", "do", "sleep", "place_stone", "make_wood_sword")


@pytest.mark.parametrize("share", [0.2, 0.6])
@pytest.mark.parametrize("kind", ["uniform", "kinds", "held"])
def test_chance_has_its_share_of_the_steps(kind: str, share: float) -> None:
    chance = Chance(kind, Random(0), NAMES, share)
    steps = [chance.act() is not None for _ in range(20_000)]
    assert abs(sum(steps) / len(steps) - share) < 0.03


def test_held_chance_keeps_keys_down_and_often_does_nothing() -> None:
    chance = Chance("held", Random(0), NAMES)
    played = [NAMES[action] for action in (chance.act() for _ in range(60_000)) if action is not None]
    assert len(played) == 60_000 and set(played) == set(NAMES)
    spells = [(name, len(list(run))) for name, run in groupby(played)]
    lengths = {name: [count for other, count in spells if other == name] for name in NAMES}
    for name in ("noop", "move_left", "do"):  # two in a row may be alike, so that spells look longer
        assert np.mean(lengths[name]) >= HELD_STEPS[name.split("_")[0]]
    assert np.mean(lengths["make_wood_sword"]) < 1.3
    assert 0.3 < played.count("noop") / len(played) < 0.45


def test_chance_by_kinds_and_uniform_play_as_before_it_could_hold() -> None:
    for kind in ("uniform", "kinds"):
        chance, random = Chance(kind, Random(3), NAMES), Random(3)
        assert [chance.act() for _ in range(50)] == [random_action(kind, random, NAMES) for _ in range(50)]
        chance, random = Chance(kind, Random(3), NAMES, 0.5), Random(3)
        for _ in range(50):
            assert chance.act() == (random_action(kind, random, NAMES) if random.random() < 0.5 else None)
