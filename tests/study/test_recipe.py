"""A study of two seeds on synthetic latents and stand-in games: its parts, its resumption, its page, its verdicts."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastdreamer.config import Config, load_config
from fastdreamer.errors import UserError
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.recordings.actions import action_space
from fastdreamer.run.directory import RunDirectory
from fastdreamer.study.recipe import run_study, seed_config
from fastdreamer.study.results import ARMS, chosen_arms
from fastdreamer.training import train as training

from .stand_ins import StandInGames, StandInPool, stand_in_encoder

TINY = [
    "device=cpu", "precision=fp32", "dynamics.layers=2", "dynamics.dim=16", "imagination.horizon=2",
    "imagination.merge_commit=off", "phase1.steps=2", "phase2.steps=2", "phase3.steps=2", "phase3.batch_size=2",
    "evaluation.episodes=4", "evaluation.max_steps=16", "evaluation.crops=2", "evaluation.samples=1",
    "study.real_games=2",
]  # fmt: skip
CONTROLS = ("shuffled_rewards", "shuffled_actions", "real_game")


class Workshop:
    """Counts what is really done; `dies` names a piece of work that is interrupted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: Counter[str] = Counter()
        self.dies = ""
        train = training.train

        def counted(config: Config, run_dir: Path, phase: int, *rest: Any, **more: Any) -> dict[str, Any]:
            name = f"{run_dir.name}/phase{phase}"
            self.note(name)
            return train(config, run_dir, phase, *rest, **more)

        def record(config: Config, out: Path) -> dict[str, Any]:
            self.note("record")
            out.mkdir(parents=True)
            return {"episodes": 4}

        def encode(config: Config, recordings: Path, store: Path) -> dict[str, Any]:
            self.note("encode")
            write_synthetic_store(store, config.tokenizer.clock, action_space("crafter"), episodes=4, steps=9, seed=0)
            return {"episodes": 4}

        class Pool(StandInPool):
            def reset(pool) -> np.ndarray:  # noqa: N805
                self.note("play")
                return super().reset()

        class Games(StandInGames):
            def begin(games, *begun: Any) -> None:  # noqa: N805
                self.note("begin")
                super().begin(*begun)

        monkeypatch.setattr(training, "train", counted)
        monkeypatch.setattr("fastdreamer.envs.record.record", record)
        monkeypatch.setattr("fastdreamer.encoding.pipeline.encode_recordings", encode)
        monkeypatch.setattr("fastdreamer.envs.games.Games", Games)
        monkeypatch.setattr("fastdreamer.envs.pool.EnvPool", Pool)
        for module in ("study.play", "study.recipe"):
            monkeypatch.setattr(f"fastdreamer.{module}.acting_encoder", stand_in_encoder)

    def note(self, name: str) -> None:
        if name == self.dies:
            raise KeyboardInterrupt
        self.done[name] += 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Two seeds with every arm, interrupted twice on the way."""
    folder = tmp_path_factory.mktemp("study") / "study"
    config = load_config("debug", TINY)
    with pytest.MonkeyPatch.context() as patch:
        shop = Workshop(patch)
        for name in ("seed-0/phase2", "shuffled_actions/phase3"):
            shop.dies = name
            with pytest.raises(KeyboardInterrupt):
                run_study(config, folder, 1, ARMS, print)
        shop.dies = ""
        result = run_study(config, folder, 2, ARMS, print)
    phases = [f"seed-{seed}/phase{phase}" for seed in (0, 1) for phase in (1, 2, 3)]
    expected = dict.fromkeys(["record", "encode", *phases], 1) | {f"{control}/phase3": 2 for control in CONTROLS}
    assert shop.done.pop("begin") >= 2 and shop.done.pop("play") == 2 * len(ARMS)
    assert shop.done == expected, "every part once, whatever was interrupted"
    return folder, result


def copied(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished[0], tmp_path / "copy"))


def test_seeds_share_recordings_and_store_and_nothing_else(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.yaml", "parts", "seed-0", "seed-1", "shared", "study.html", "study.json"
    ]  # fmt: skip
    configs = [RunDirectory(folder / f"seed-{number}").config() for number in (0, 1)]
    assert [config.seed for config in configs] == [0, 1]
    assert {config.data.store for config in configs} == {str(folder / "shared" / "store")}
    worlds = [range(c.evaluation.seed, c.evaluation.seed + c.evaluation.episodes) for c in configs]
    assert not set(worlds[0]) & set(worlds[1])
    for number in (0, 1):
        for control in CONTROLS:
            run = RunDirectory(folder / f"seed-{number}" / "controls" / control)
            assert run.has_phase(3) and not run.has_phase(2) and run.config() == configs[number]


def test_every_arm_of_every_seed_is_in_the_result_and_on_the_page(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, result = finished
    found = result["tasks"]["reward"]
    assert tuple(found["arms"]) == ARMS and found["arms"]["phase3"]["over"] == "seeds and worlds"
    assert set(found["differences"]) == {
        "phase2_minus_random", *(f"{arm}_minus_phase2" for arm in ("phase3", *CONTROLS))
    }  # fmt: skip
    for seed in result["by_seed"]:
        arms = seed["tasks"]["reward"]["arms"]
        assert all(len(arms[arm]["returns"]) == 4 for arm in ARMS)
        assert seed["world_model"]["ratios"]["shuffled_over_real"]["mean"] > 0
    judged = result["by_seed"][1]["tasks"]["reward"]["reward_calibration"]
    assert set(judged) == {"phase2", "phase3"} and judged["phase2"]["paid"]["mean"] > 0
    assert found["recordings"]["episodes"] == 4 and found["recordings"]["length_mean"] <= 16
    kept = json.loads((folder / "study.json").read_text())
    assert kept["tasks"] == result["tasks"] and kept["red"] == result["red"]
    page = (folder / "study.html").read_text()
    assert page.isascii() and "src=" not in page and "<script" not in page
    for words in (
        "Rewards shuffled",
        "Actions shuffled",
        "Real game",
        "seed 1",
        "no seed left out",
        "Every setting",
        "paid",
    ):
        assert words in page


def test_a_finished_study_does_nothing_again_and_may_be_moved(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, shop = copied(finished, tmp_path), Workshop(monkeypatch)
    again = run_study(load_config("debug", TINY), folder, 2, ARMS, print)
    assert not shop.done and again["tasks"] == finished[1]["tasks"]


def test_more_worlds_are_played_without_training_again(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, shop = copied(finished, tmp_path), Workshop(monkeypatch)
    result = run_study(load_config("debug", [*TINY, "evaluation.episodes=5"]), folder, 2, chosen_arms("random"), print)
    assert shop.done == {"play": 6} and result["worlds"] == 5
    assert tuple(result["tasks"]["reward"]["arms"]) == ("random", "phase2", "phase3")


def test_a_study_keeps_its_recipe(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, shop = copied(finished, tmp_path), Workshop(monkeypatch)
    for change, part in (("phase1.steps=3", "seed-0/phase1"), ("record.episodes=9", "record")):
        with pytest.raises(UserError, match=f"{part}.json was made with other settings.*use another --run-dir"):
            run_study(load_config("debug", [*TINY, change]), folder, 2, ARMS, print)
    assert not shop.done


def test_a_seed_that_is_left_out_is_a_red_verdict(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = copied(finished, tmp_path), Workshop(monkeypatch)
    result = run_study(load_config("debug", TINY), folder, 1, ARMS, print)
    assert result["verdicts"][0]["verdict"] == "red" and "seed-1 not counted" in result["verdicts"][0]["value"]
    assert result["tasks"]["reward"]["arms"]["phase3"]["over"] == "worlds"
    assert "One seed alone" in (folder / "study.html").read_text()


def test_what_cannot_be_studied_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a study plays crafter itself"):
        run_study(load_config("debug", ["data.env=minerl_treechop"]), tmp_path, 2, ARMS)
    with pytest.raises(UserError, match="--seeds is 0"):
        run_study(load_config("debug"), tmp_path, 0, ARMS)
    tokens = load_config("debug", ["heads.readout=agent_tokens", "dynamics.agent_tokens=1"])
    with pytest.raises(UserError, match="real_game is not made: leave it out"):
        run_study(tokens, tmp_path, 2, ARMS)
    with pytest.raises(UserError, match="--arms names 'greedy'; there are random"):
        chosen_arms("random,greedy")
    assert chosen_arms("real_game") == ("phase2", "phase3", "real_game")
    assert list(tmp_path.iterdir()) == []


def test_seeds_play_worlds_that_follow_one_another() -> None:
    config = load_config("debug", ["evaluation.episodes=50", "seed=7"])
    third = seed_config(config, 3)
    assert third.seed == 10 and third.evaluation.seed == config.evaluation.seed + 150
