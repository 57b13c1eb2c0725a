"""`evaluate` on a tiny run trained on a synthetic store: real models, real Crafter, a stand-in for the tokenizer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastdreamer.config import Config, load_config
from fastdreamer.errors import UserError
from fastdreamer.evaluation import evaluate as module
from fastdreamer.evaluation.environments import open_encoder
from fastdreamer.evaluation.evaluate import evaluate, recorded_seeds
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.recordings.actions import action_space
from fastdreamer.report.page import write_report
from fastdreamer.report.recorded_play import action_shares
from fastdreamer.run.directory import RunDirectory
from fastdreamer.settings import dump_config
from fastdreamer.shapes import CHANNELS, TOKENS
from fastdreamer.training.train import train

TINY = ["device=cpu", "phase1.steps=2", "phase2.steps=2", "phase3.steps=2", "evaluation.max_steps=12",
        "evaluation.crops=3", "dynamics.layers=2", "dynamics.dim=16"]  # fmt: skip


class StandIn:
    """Latents from the frame's mean colour: cheap, and changes when the picture does."""

    position = 0

    def reset(self, frames: Tensor) -> Tensor:
        self.position = 0
        return self.latents(frames)

    def push(self, frames: Tensor) -> Tensor:
        self.position = 1 + self.position % 4
        return self.latents(frames[:, -1])

    def latents(self, frames: Tensor) -> Tensor:
        return frames.float().mean(dim=(1, 2, 3))[:, None, None].expand(-1, TOKENS, CHANNELS) / 100 - 1


class StandInPool:
    """Worlds that pay 1 for action 0, 3, 6, ... and show how much they paid."""

    def __init__(self, env: str, seeds: Sequence[int], max_steps: int, workers: int) -> None:
        self.seeds, self.max_steps = np.asarray(seeds), max_steps

    def __enter__(self) -> StandInPool:
        return self

    def __exit__(self, *error: object) -> None: ...

    def frames(self) -> np.ndarray:
        return np.tile((self.paid * 20).astype(np.uint8)[:, None, None, None], (1, 64, 64, 3))

    def reset(self) -> np.ndarray:
        self.steps, self.paid = 0, np.zeros(len(self.seeds))
        return self.frames()

    def step(self, actions: np.ndarray, active: np.ndarray) -> tuple[Any, ...]:
        self.steps += 1
        rewards = (actions[:, 0] % 3 == 0).astype(np.float32)
        self.paid += rewards
        ended = np.full(len(self.seeds), self.steps == self.max_steps)
        return (
            self.frames(),
            rewards,
            np.zeros_like(ended),
            ended,
            [{"achievements": ["x"] if p > 2 else []} for p in self.paid],
        )


def tiny_run(run_dir: Path, *overrides: str) -> Config:
    config = load_config("debug", [*TINY, *overrides])
    dump_config(config, run_dir / "config.yaml")
    space = action_space(config.data.env)
    write_synthetic_store(run_dir / "store", config.tokenizer.clock, space, episodes=4, steps=9, seed=0)
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "tiny"
    run_dir.mkdir()
    config = tiny_run(run_dir)
    for phase in (1, 2, 3):
        train(config, run_dir, phase)
    return run_dir


def copy_of(run_dir: Path, folder: Path) -> tuple[Path, Config]:
    shutil.copytree(run_dir, folder)
    return folder, RunDirectory(folder).config()


def use_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastdreamer.evaluation.environments.open_encoder", lambda *arguments: StandIn())
    monkeypatch.setattr("fastdreamer.envs.pool.EnvPool", StandInPool)


def test_every_policy_and_the_world_model_are_evaluated(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_stand_in(monkeypatch)
    run_dir, config = copy_of(trained, tmp_path / "run")
    result = evaluate(config, run_dir)
    policies = result["policies"]
    assert list(policies) == ["random", "phase2", "phase2_greedy", "phase3", "phase3_greedy"]
    for policy in policies.values():
        assert policy["episodes"] == 3 == len(policy["returns"]) and policy["length_mean"] == 12
        assert policy["return_low"] <= policy["return_mean"] <= policy["return_high"]
    paired = np.subtract(policies["phase2"]["returns"], policies["random"]["returns"]).mean()
    assert result["differences"]["phase2_minus_random"]["mean"] == pytest.approx(paired)
    world = result["world_model"]
    assert world["horizons"] == [1, 2, 3] and world["crops"] == 3 and world["samples"] == 2
    assert world["ratios"]["shuffled_over_real"]["mean"] > 0
    assert len(world["one_sample_over_copy"]) == 3 and world["reward_correlation"]["crops"] == 3
    judged = result["reward_calibration"]
    assert list(judged) == ["phase2", "phase2_greedy", "phase3", "phase3_greedy", "recordings"]
    steps = -(-12 // config.tokenizer.frames_per_latent)
    for name in list(policies)[1:]:
        assert judged[name]["steps"] == 3 * steps and judged[name]["episodes"] == 3 and judged[name]["step"] == 2
        assert 0 < judged[name]["paid"]["mean"] <= policies[name]["return_mean"] + 1e-6, "discounted inside a chunk"
    assert json.loads((run_dir / "world_model.json").read_text()) == world
    assert json.loads((run_dir / "evaluation.json").read_text())["policies"] == policies
    assert any("pixel decoder" in note for note in world["notes"])
    html = Path(write_report(run_dir)["path"]).read_text()
    assert "What it learned from" in html and "held out" in html and "Imagination, greedy" in html


def test_the_real_environment_is_played(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastdreamer.evaluation.environments.open_encoder", lambda *arguments: StandIn())
    _, config = copy_of(trained, tmp_path / "run")
    config = replace(config, evaluation=replace(config.evaluation, workers=1, episodes=2, max_steps=9))
    played = module.evaluate_policies(config, RunDirectory(tmp_path / "run"), [1, 2], torch.device("cpu"))
    assert list(played["policies"]) == ["random", "phase2", "phase2_greedy"]
    assert all(policy["length_mean"] == 9 and len(policy["returns"]) == 2 for policy in played["policies"].values())


def test_parts_of_chunks_are_played_without_comparing_rewards(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_stand_in(monkeypatch)
    run_dir, config = copy_of(trained, tmp_path / "run")
    config = replace(config, evaluation=replace(config.evaluation, execute=1))
    result = module.evaluate_policies(config, RunDirectory(run_dir), [1, 2], torch.device("cpu"))
    assert result["reward_calibration"] == {} and "evaluation.execute 1 is below the chunk" in result["notes"][-1]


def test_evaluation_repeats_itself(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_stand_in(monkeypatch)
    run_dir, config = copy_of(trained, tmp_path / "run")
    assert evaluate(config, run_dir) == evaluate(config, run_dir)


def test_untrained_phases_are_left_out_with_a_note(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("without a policy that looks, no tokenizer is needed")

    use_stand_in(monkeypatch)
    monkeypatch.setattr("fastdreamer.evaluation.environments.open_encoder", refuse)
    run_dir, config = copy_of(trained, tmp_path / "run")
    for phase in (2, 3):
        shutil.rmtree(run_dir / "checkpoints" / f"phase{phase}")
    result = evaluate(config, run_dir)
    assert list(result["policies"]) == ["random"] and "horizons" in result["world_model"]
    assert result["notes"] == ["Phase 2 is not trained in this run.", "Phase 3 is not trained in this run."]


def test_nothing_trained_is_refused(tmp_path: Path) -> None:
    config = tiny_run(tmp_path)
    with pytest.raises(UserError, match="nothing is trained"):
        evaluate(config, tmp_path)


def test_without_an_environment_only_the_world_model_is_evaluated(tmp_path: Path) -> None:
    config = tiny_run(tmp_path, "data.env=minerl_treechop", "phase1.steps=1")
    train(config, tmp_path, 1)
    result = evaluate(config, tmp_path)
    assert result["policies"] == {} and "horizons" in result["world_model"]
    assert any("minerl_treechop has no environment" in note for note in result["notes"])
    assert "minerl_treechop has no environment" in Path(write_report(tmp_path)["path"]).read_text()


def test_recorded_worlds_are_refused_by_the_recordings_own_seeds(trained: Path, tmp_path: Path) -> None:
    run_dir, config = copy_of(trained, tmp_path / "run")
    assert recorded_seeds(config, RunDirectory(run_dir)) == list(range(6))
    episode = run_dir / "recordings" / "Crafter-expert" / "v3_scripted_crafter-7_0-10"
    episode.mkdir(parents=True)
    (episode / "metadata.json").write_text(json.dumps({"seed": config.evaluation.seed + 1}))
    with pytest.raises(UserError, match=r"evaluation\.seed 1000000: 1 of 3"):
        evaluate(config, run_dir)


def test_a_tokenizer_other_than_the_stores_is_refused(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("fastdreamer_engines")
    run_dir, config = copy_of(trained, tmp_path / "run")
    with pytest.raises(UserError, match="another tokenizer"):
        open_encoder(config, RunDirectory(run_dir), 2, torch.device("cpu"))


def test_windows_too_short_leave_the_world_model_out_with_a_note(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_stand_in(monkeypatch)
    run_dir, config = copy_of(trained, tmp_path / "run")
    shutil.rmtree(run_dir / "store")
    write_synthetic_store(run_dir / "store", config.tokenizer.clock, action_space("crafter"), 4, steps=3, seed=0)
    result = evaluate(config, run_dir)
    assert "horizons" not in result["world_model"]
    assert "whole window of 5 latent steps" in result["world_model"]["notes"][0]
    assert "whole window of 5" in Path(write_report(run_dir)["path"]).read_text()


def test_filmstrips_are_drawn_with_the_pixel_decoder(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_stand_in(monkeypatch)
    run_dir, config = copy_of(trained, tmp_path / "run")
    chunk = config.tokenizer.frames_per_latent

    def decoder(latents: Tensor) -> Tensor:
        return latents.mean(dim=(1, 2)).sigmoid()[:, None, None, None, None].expand(-1, chunk, 3, 64, 64)

    seen: list[str] = []

    class Frames:
        def __init__(self, config: Config, run: RunDirectory) -> None: ...

        def __call__(self, name: str) -> np.ndarray:
            seen.append(name)
            return np.zeros((1 + 8 * chunk, 64, 64, 3), np.uint8)

    monkeypatch.setattr("fastdreamer.training.pixel_decoder.load_decoder", lambda *arguments: decoder)
    monkeypatch.setattr(module, "RealFrames", Frames)
    evaluate(config, run_dir)
    pictures = json.loads((run_dir / "pictures" / "pictures.json").read_text())
    assert len(pictures["strips"]) == len(seen) == 3 and pictures["context"] == 2
    assert list(pictures["strips"][0]["rows"]) == ["real", "reconstructed", "imagined"]
    html = Path(write_report(run_dir)["path"]).read_text()
    assert html.count("data:image/png;base64,") == 9


def test_action_shares_name_labels_or_components() -> None:
    crafter = action_space("crafter")
    shares = action_shares([np.array([[0], [5], [5], [5]], np.uint8)], crafter)
    assert list(shares)[:2] == ["do", "noop"] and shares["do"] == 0.75
    treechop = action_space("minerl_treechop")
    taken = np.tile(np.array(treechop.noop, np.uint8), (4, 1))
    taken[:3, [c.name for c in treechop.components].index("attack")] = 1
    shares = action_shares([taken], treechop)
    assert list(shares)[0] == "attack" and shares["attack"] == 0.75 and sum(shares.values()) == 0.75
