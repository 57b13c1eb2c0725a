"""The audit: moments of play, tries in both worlds, and the whole of it on a tiny run."""

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
from imagination.worlds import TOKENS, rollouts
from torch import Tensor

from diagnosis.conftest import BACKEND
from fastdreamer.config import Config
from fastdreamer.envs.branching import Played, Snapshot
from fastdreamer.errors import UserError
from fastdreamer.evaluation.evaluate import evaluation_seeds
from fastdreamer.heads.actor import Actor
from fastdreamer.recordings.tasks import RECORDED, TaskMeter
from fastdreamer.report.page import write_report
from fastdreamer.run.directory import RunDirectory
from fastdreamer.run.run_files import AUDIT
from fastdreamer.shapes import LatentClock
from fastdreamer.tools.diagnosis import audit as module
from fastdreamer.tools.diagnosis.audit import Effort, audit, check_auditable, own_seeds, recorded_worlds, render
from fastdreamer.tools.diagnosis.diagnose import diagnose
from fastdreamer.tools.diagnosis.moments import Moment, Reach, Replay, collect, encode
from fastdreamer.tools.diagnosis.tries import Trial

PLAIN, CHUNKED = LatentClock(1, 1), LatentClock(4, 9)
WORTH = np.arange(17) % 5 / 4  # of an action in the pretended game


class PretendPool:
    """Games whose picture is the number of frames so far; an action pays its worth, and world 1 ends early."""

    def __init__(self, count: int, task: str, workers: int = 0, ends: int = 10**6) -> None:
        assert task == RECORDED
        self.count, self.ends = count, ends
        self.restored: list[list[int]] = []

    def __enter__(self) -> PretendPool:
        return self

    def __exit__(self, *error: object) -> None: ...

    def frames(self) -> np.ndarray:
        return np.tile(self.steps.astype(np.uint8)[:, None, None, None], (1, 8, 8, 3))

    def start(self, seeds: Sequence[int]) -> np.ndarray:
        self.steps = np.zeros(self.count, int)
        return self.frames()

    def restore(self, snapshot: Snapshot, chances: Sequence[int]) -> None:
        self.steps = np.full(self.count, int(snapshot.world))
        self.restored.append(list(chances))

    def step(self, actions: np.ndarray, active: np.ndarray) -> Played:
        frames, rewards = [], WORTH[actions[..., 0]].astype(np.float32) * active[:, None]
        for _ in range(actions.shape[1]):
            self.steps += active
            frames.append(self.frames())
        ended = (np.arange(self.count) == 1) & (self.steps >= self.ends)
        return Played(np.stack(frames, 1), rewards, rewards, ended)

    def save(self, wanted: np.ndarray) -> dict[int, Snapshot]:
        meter = TaskMeter(RECORDED, {})
        return {int(i): Snapshot(str(self.steps[i]).encode(), meter) for i in np.flatnonzero(wanted)}


class PretendEncoder:
    """Latents that show the last frame's brightness, as its step of the window."""

    def __init__(self, clock: LatentClock) -> None:
        self.clock, self.step = clock, 0
        self.tokenizer = self

    @property
    def position(self) -> int:
        return self.clock.position(self.step)

    def reset(self, frames: Tensor) -> Tensor:
        self.step = 0
        return self.latents(frames)

    def push(self, frames: Tensor) -> Tensor:
        assert frames.shape[1] == self.clock.frames_per_latent
        self.step += 1
        return self.latents(frames[:, -1])

    def latents(self, frames: Tensor) -> Tensor:
        return frames.float().mean((1, 2, 3))[:, None, None].expand(-1, 16, 16) / 10


def replayed(clock: LatentClock, context: int, lengths: Sequence[int], ends: int = 10**6) -> list[Moment | None]:
    rng = np.random.default_rng(0)
    plans = [rng.integers(17, size=(length, 1)) for length in lengths]
    episodes = [(plan.astype(np.uint8), WORTH[plan[:, 0]].astype(np.float32)) for plan in plans]
    player = Replay(episodes, clock.frames_per_latent)
    pool = PretendPool(len(lengths), RECORDED, ends=ends)
    found = collect(pool, list(range(len(lengths))), player, Reach(clock, context), rng, lambda n: None)
    assert player.is_true.all() or ends < max(lengths)
    for moment, plan in zip(found, plans, strict=True):
        if moment is not None:
            frame, c = int(moment.snapshot.world), clock.frames_per_latent
            assert moment.frames[-1, 0, 0, 0] == frame and (np.diff(moment.frames[:, 0, 0, 0].astype(int)) == 1).all()
            taken = plan[max(0, frame - context * c) : frame]
            assert np.array_equal(moment.actions[moment.known].reshape(-1, 1), taken)
            assert len(taken) == moment.known.sum() * c
    return found


@pytest.mark.parametrize(("clock", "context"), [(PLAIN, 1), (PLAIN, 4), (CHUNKED, 1), (CHUNKED, 4)])
def test_a_moment_holds_the_steps_before_it(clock: LatentClock, context: int) -> None:
    moments = [m for m in replayed(clock, context, [60] * 40) if m is not None]
    assert len(moments) == 40
    steps, c = [int(m.snapshot.world) for m in moments], clock.frames_per_latent
    assert len(set(steps)) > 4 and min(steps) >= (context - 1) * c and max(steps) > 40, "drawn from the whole episode"
    latents, positions = encode(PretendEncoder(clock), moments, Reach(clock, context))
    wanted = np.array(steps)[:, None] - c * np.arange(context)[::-1]
    assert latents.shape == (40, context, 16, 16)
    assert np.allclose(latents[:, :, 0, 0] * 10, wanted, atol=1e-4)
    assert positions[-1] == clock.position(1), "the first of its window"
    for frame in steps:
        true = [clock.position(step) for step in range(frame // c - context + 1, frame // c + 1)]
        assert positions.tolist() == true


def test_worlds_that_end_early_give_an_earlier_moment_or_none() -> None:
    early, gone = replayed(PLAIN, 4, [50, 50], ends=12), replayed(PLAIN, 4, [50, 50], ends=3)
    assert early[1] is not None and int(early[1].snapshot.world) < 12 and gone[1] is None
    assert replayed(PLAIN, 4, [2, 50])[0] is None


def test_a_game_that_goes_another_way_than_its_recording_is_found_out() -> None:
    plan = np.full((20, 1), 3, np.uint8)
    right, wrong = np.full(20, WORTH[3], np.float32), np.full(20, WORTH[3], np.float32)
    wrong[7] = 0.0
    player = Replay([(plan, right), (plan, wrong)], 1)
    collect(PretendPool(2, RECORDED), [0, 1], player, Reach(PLAIN, 1), np.random.default_rng(0), lambda n: None)
    assert player.is_true.tolist() == [True, False]


# --- the whole


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[PretendPool]:
    """The audit in the pretended game, whose first frames are the demonstrator's recordings."""
    pools: list[PretendPool] = []

    def pool(*arguments: Any) -> PretendPool:
        pools.append(PretendPool(*arguments))
        return pools[-1]

    monkeypatch.setattr("fastdreamer.envs.branching.BranchPool", pool)
    monkeypatch.setattr("fastdreamer.tools.diagnosis.audit.BranchPool", pool)
    monkeypatch.setattr("fastdreamer.tokenizer.acting.ActingEncoder", lambda tokenizer, batch: PretendEncoder(PLAIN))
    monkeypatch.setattr(module, "open_encoder", lambda *arguments: PretendEncoder(PLAIN))
    return pools


def test_an_audit_of_a_tiny_run(config: Config, run: Path, pretended: list[PretendPool]) -> None:
    config = replace(config, evaluation=replace(config.evaluation, max_steps=12))
    result = diagnose(config, run, (2,), BACKEND, Effort(states=2, tries=2))
    audited = result["audit"]
    assert audited == json.loads((run / AUDIT.name).read_text())
    assert audited["phase"] == 3 and list(audited["kinds"]) == ["own"] and "left out" in audited["notes"][0]
    own = audited["kinds"]["own"]
    assert own["states"] == 2 and len(own["points"]) == 34
    horizon, gamma = config.imagination.horizon, config.imagination.gamma
    advantage = np.array(own["points"])[:, 0].reshape(2, 17)
    assert np.allclose(advantage, WORTH - WORTH.mean(), atol=0.75 * horizon), "what an action itself pays is in it"
    assert own["figures"]["real"]["mean"] < own["figures"]["real_sum"]["mean"] < horizon * WORTH.max() / gamma
    counted = sum(c["verdict"] == "red" for part in (result["phases"]["phase2"], audited) for c in part["checks"])
    assert result["red"] == counted
    (chances, _) = pretended[-1].restored
    assert len(chances) == 34 and chances[:2] * 17 == chances, "a try of every action has the same luck"
    said = "\n".join(render(audited))
    for text in ("audit of phase 3", "correlation of advantages", "the policy's own play (2 states)", "note: Recorded"):
        assert text in said
    page = Path(write_report(run)["path"]).read_text()
    for text in ("Imagination against the game", "real gain of the really best", "imagined advantage", "optimism on"):
        assert text in page


def test_what_cannot_be_audited_is_refused_in_a_line(config: Config, run: Path) -> None:
    minecraft = replace(config, data=replace(config.data, env="minerl_treechop"))
    with pytest.raises(UserError, match="minerl_treechop, which cannot be put back"):
        diagnose(minecraft, run, (), BACKEND, Effort())
    for phase in (2, 3):
        shutil.rmtree(run / "checkpoints" / f"phase{phase}")
    with pytest.raises(UserError, match="no policy to audit"):
        check_auditable(config, RunDirectory(run))
    for wrong in ({"states": 1}, {"tries": 0}):
        with pytest.raises(UserError, match="needs at least 2"):
            Effort(**wrong)


def test_own_worlds_are_neither_evaluated_nor_recorded(config: Config, run: Path, tmp_path: Path) -> None:
    directory = RunDirectory(run)
    assert not set(own_seeds(config, directory, 5)) & set(evaluation_seeds(config))
    config = replace(config, data=replace(config.data, recordings=str(tmp_path / "recordings")))
    for name, seed in (("ring-05", evaluation_seeds(config).stop + 2), ("ring-04", 3), ("ring-11", "x")):
        folder = tmp_path / "recordings" / "Crafter-expert" / name
        folder.mkdir(parents=True)
        (folder / "metadata.json").write_text(json.dumps({"seed": seed}))
    with pytest.raises(UserError, match="were recorded too"):
        own_seeds(config, directory, 5)
    ((seed, episode),) = recorded_worlds(config, directory)
    assert episode.name == "ring-05" and seed == evaluation_seeds(config).stop + 2, "held out, and with a seed"


def test_an_audit_of_a_policy_that_saw_no_reward_is_refused(
    config: Config, run: Path, pretended: list[PretendPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastdreamer.heads.reward.TwoHotHead.is_trained", False)
    with pytest.raises(UserError, match="nothing to audit"):
        audit(config, RunDirectory(run), BACKEND, Effort(2, 2))


def test_branches_see_the_frames_of_the_moments_window_and_then_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    made = rollouts("tokenizer.frames_per_latent=4", "tokenizer.window=9", "dynamics.layers=2")
    moment, reach = replayed(CHUNKED, 1, [60])[0], Reach(CHUNKED, 1)
    assert moment is not None
    seen: list[tuple[float, int]] = []

    def act(self: Actor, latents: Tensor, positions: Tensor, **more: Any) -> Tensor:
        seen.append((float(latents[0, 0, 0]), int(positions[0])))
        return torch.zeros(34, 4, 1, dtype=torch.int64)

    monkeypatch.setattr(Actor, "act", act)
    latents, positions = encode(PretendEncoder(CHUNKED), [moment], reach)
    pool, encoder = PretendPool(34, RECORDED), PretendEncoder(CHUNKED)
    trial = Trial(Actor(made.world, made.agent), pool, encoder, reach, BACKEND, 17, 2, 3, 0.9, lambda n: None)
    tried = trial.run(moment, latents[0], positions, 0)
    frame = int(moment.snapshot.world)
    assert [x * 10 for x, _ in seen] == pytest.approx([frame + 4, frame + 8], abs=1e-4)
    assert [position for _, position in seen] == [2, 1]
    discounts = 0.9 ** np.arange(4)
    assert np.allclose(tried.real[:, 0], np.stack([WORTH, 0 * WORTH, 0 * WORTH], 1) * discounts.sum(), atol=1e-5)


def test_a_policy_with_agent_tokens_is_shown_the_real_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    made = rollouts(*TOKENS, "tokenizer.frames_per_latent=1", "tokenizer.window=1", "dynamics.layers=2")
    actor, moment = Actor(made.world, made.agent), replayed(PLAIN, 3, [30])[0]
    assert moment is not None
    latents, positions = encode(PretendEncoder(PLAIN), [moment], Reach(PLAIN, 3))
    pool = PretendPool(34, RECORDED)
    trial = Trial(actor, pool, PretendEncoder(PLAIN), Reach(PLAIN, 3), BACKEND, 17, 2, 3, 0.9, lambda n: None)
    seen: list[tuple[Tensor, Tensor | None]] = []
    act = Actor.act

    def watched(self: Actor, latents: Tensor, *arguments: Any, **more: Any) -> Tensor:
        seen.append((latents[0, 0, 0].clone(), None if self._last is None else self._last[0, 0, 0].clone()))
        return act(self, latents, *arguments, **more)

    monkeypatch.setattr(Actor, "act", watched)
    tried = trial.run(moment, latents[0], positions, 0)
    assert tried.real.shape == tried.imagined.shape == (17, 2, 3) and tried.policy.sum() == pytest.approx(1)
    assert len(seen) == 3 + 2
    assert [float(x) for x, _ in seen[:3]] == pytest.approx(latents[0, :, 0, 0].tolist())
    assert [int(last) for _, last in seen[:4] if last is not None] == [*moment.actions[:, 0, 0].tolist(), 0]
    assert torch.equal(
        torch.from_numpy(tried.real[:, :, 0]).float(), torch.tensor(WORTH).float()[:, None].expand(-1, 2)
    )
