"""World-model evaluation with fake models whose right answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fastdreamer.config import EvaluationConfig
from fastdreamer.errors import UserError
from fastdreamer.evaluation.open_loop import (
    choose_crops,
    evaluate_world_model,
    noop_actions,
    shuffle_actions,
)
from fastdreamer.latents.batch import Batch
from fastdreamer.latents.store import Episode
from fastdreamer.shapes import LatentClock

B, L, N, Z, CONTEXT = 12, 9, 4, 3, 3
NOOP = (0,)


def walk(name: str, frames: int, c: int = 1) -> Episode:
    """An episode whose latents the actions fully determine: each step moves by the action taken."""
    generator = torch.Generator().manual_seed(len(name) + frames)
    actions = torch.randint(0, 5, (frames - 1, 1), generator=generator).to(torch.uint8)
    steps = LatentClock(c, 1 if c == 1 else 1 + 4 * c).steps(frames)
    position = torch.cat([torch.zeros(1), (actions[:, 0].float() - 2).cumsum(0)])
    position = torch.cat([position, position[-1:].expand(c)])[::c][:steps]
    return Episode(
        name=name,
        split="held_out",
        latents=(position[:, None, None].expand(-1, N, Z) / 4).half(),  # exact in half precision
        actions=actions,
        rewards=torch.zeros(frames - 1),
        terminals=torch.zeros(frames - 1, dtype=torch.bool),
        valid=torch.ones(frames, dtype=torch.bool),
    )


def episodes() -> list[Episode]:
    return [walk(f"episode-{i}", 30 + i) for i in range(4)]


def crops(count: int = B) -> Batch:
    return choose_crops(episodes(), LatentClock(1, 1), L, CONTEXT, count, 0)[1]


def uses_actions(batch: Batch, generator: torch.Generator, actions: Tensor | None) -> Tensor:
    """The true dynamics, with a little noise."""
    taken = (batch.actions if actions is None else actions)[:, :, 0, 0].float()
    out = batch.latents.clone()
    for step in range(CONTEXT, batch.latents.shape[1]):
        out[:, step] = out[:, step - 1] + (taken[:, step, None, None] - 2) / 4
    noise = 0.1 * torch.randn(out.shape, generator=generator)
    noise[:, :CONTEXT] = 0
    return out + noise


def ignores_actions(batch: Batch, generator: torch.Generator, actions: Tensor | None) -> Tensor:
    return uses_actions(batch, generator, torch.full_like(batch.actions, 2))


def evaluate(imagine: object, batch: Batch, samples: int = 8) -> dict:
    settings = EvaluationConfig(context=CONTEXT, samples=samples, bootstrap=300, seed=0)
    result, errors = evaluate_world_model(imagine, batch, batch.latents, NOOP, settings)  # type: ignore[arg-type]
    assert errors.shape == (len(batch.latents),)
    return result


def test_a_model_that_ignores_actions_has_control_ratios_of_exactly_one() -> None:
    ratios = evaluate(ignores_actions, crops())["ratios"]
    assert ratios["shuffled_over_real"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert ratios["noop_over_real"] == {"mean": 1.0, "low": 1.0, "high": 1.0}


def test_a_model_that_uses_actions_has_control_ratios_above_one() -> None:
    result = evaluate(uses_actions, crops())
    assert result["ratios"]["shuffled_over_real"]["low"] > 5 and result["ratios"]["noop_over_real"]["low"] > 5
    assert result["ratios"]["mean_of_8_over_copy"]["high"] < 0.1
    assert result["beats_copy_at_every_horizon"] and result["beats_copy_on_average"]


def test_errors_are_those_of_the_noise_and_of_copying() -> None:
    batch = crops(60)
    result = evaluate(uses_actions, batch)
    assert result["horizons"] == [1, 2, 3, 4, 5, 6] and result["crops"] == 60 and result["context"] == CONTEXT
    assert result["one_sample"] == pytest.approx([0.01] * 6, rel=0.1)
    assert result["mean_of_8"] == pytest.approx([0.01 / 8] * 6, rel=0.15)
    copy = (batch.latents[:, CONTEXT:] - batch.latents[:, CONTEXT - 1 : CONTEXT]).square().mean(dim=(0, 2, 3))
    assert result["copy_last"] == pytest.approx(copy.tolist())
    assert result["average"]["copy_last"] == pytest.approx(float(copy.mean()))


def test_a_model_worse_than_copying_is_not_said_to_beat_it() -> None:
    result = evaluate(lambda batch, generator, actions: batch.latents + 50.0, crops())
    assert not result["beats_copy_at_every_horizon"] and not result["beats_copy_on_average"]


def test_one_sample_is_held_against_copying_at_every_horizon() -> None:
    result = evaluate(uses_actions, crops(60))
    assert len(result["one_sample_over_copy"]) == 6 and result["one_sample_beats_copy_at_every_horizon"]
    means = [a / b for a, b in zip(result["one_sample"], result["copy_last"], strict=True)]
    assert [r["mean"] for r in result["one_sample_over_copy"]] == pytest.approx(means)
    assert all(r["low"] <= r["mean"] <= r["high"] for r in result["one_sample_over_copy"])

    def late(batch: Batch, generator: torch.Generator, actions: Tensor | None) -> Tensor:
        out = uses_actions(batch, generator, actions)
        out[:, CONTEXT] += 0.5
        return out

    assert not evaluate(late, crops(60))["one_sample_beats_copy_at_every_horizon"]


def test_the_first_imagined_step_is_held_against_copying_and_shuffled_actions() -> None:
    step = evaluate(uses_actions, crops(60))["one_step"]
    assert step["error"] == pytest.approx(0.01, rel=0.1)
    assert step["over_copy"]["mean"] == pytest.approx(step["error"] / step["copy"]) and step["over_copy"]["high"] < 1
    assert step["shuffled_over_real"]["low"] > 5
    deaf = evaluate(ignores_actions, crops())["one_step"]
    assert deaf["shuffled_over_real"] == {"mean": 1.0, "low": 1.0, "high": 1.0}


def test_shuffled_actions_are_the_same_chunks_each_somewhere_else() -> None:
    batch = crops()
    numbered = torch.arange(B * L).view(B, L, 1, 1)
    marked = Batch(**{**vars(batch), "actions": numbered})
    shuffled = shuffle_actions(marked, CONTEXT, seed=0)
    assert torch.equal(shuffled[:, :CONTEXT], numbered[:, :CONTEXT])
    assert torch.equal(shuffled[:, CONTEXT:].flatten().sort().values, numbered[:, CONTEXT:].flatten().sort().values)
    assert not (shuffled[:, CONTEXT:] == numbered[:, CONTEXT:]).any()
    assert torch.equal(batch.actions, crops().actions)  # the batch's own stay


def test_noop_replaces_every_component_after_the_context_only() -> None:
    batch = crops()
    nines, known = torch.full((B, L, 2, 3), 9), torch.ones(B, L, 2, dtype=torch.bool)
    changed = {"actions": nines, "next_actions": nines, "action_valid": known, "next_valid": known}
    marked = Batch(**{**vars(batch), **changed})
    actions = noop_actions(marked, CONTEXT, (1, 5, 0))
    assert (actions[:, :CONTEXT] == 9).all()
    assert (actions[:, CONTEXT:] == torch.tensor([1, 5, 0])).all()


def test_crops_are_different_and_whole_and_reach_no_untrusted_frame() -> None:
    played = episodes()
    played[0].valid[20:] = False
    chosen, batch = choose_crops(played, LatentClock(1, 1), L, CONTEXT, 1000, 0)
    assert len(set(chosen)) == len(chosen) == len(batch.latents)
    assert max(c.start for c in chosen if c.episode == "episode-0") == 20 - L
    assert batch.target_valid[:, CONTEXT:].all() and batch.action_valid[:, CONTEXT:].all()


def test_few_crops_come_from_many_episodes() -> None:
    chosen, _ = choose_crops(episodes(), LatentClock(1, 1), L, CONTEXT, 16, 0)
    assert len(chosen) == 16 and len({c.episode for c in chosen}) == 4


def test_episodes_shorter_than_the_window_are_refused_with_the_way_out() -> None:
    with pytest.raises(UserError, match="whole window of 9 latent steps"):
        choose_crops([walk("short", 8)], LatentClock(1, 1), L, CONTEXT, 4, 0)


def test_chunks_of_several_frames_are_cut_at_the_last_whole_step() -> None:
    episode = walk("chunked", 1 + 8 * 11 + 3, c=8)
    chosen, _ = choose_crops([episode], LatentClock(8, 33), L, CONTEXT, 100, 0)
    assert [c.start for c in chosen] == [0, 1, 2, 3]  # steps 0..11 are whole; step 12 has 3 frames of 8


def test_crops_are_imagined_in_groups_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastdreamer.evaluation import open_loop as world_model

    seen: list[int] = []

    def imagine(batch: Batch, generator: torch.Generator, actions: Tensor | None) -> Tensor:
        seen.append(len(batch.latents))
        return uses_actions(batch, generator, actions)

    monkeypatch.setattr(world_model, "SEQUENCES", 32)
    evaluate(imagine, crops())
    assert max(seen) <= 32 and sum(seen) == 3 * B * 8
    assert np.isfinite(evaluate(imagine, crops(), samples=3)["mean_of_3"]).all()
