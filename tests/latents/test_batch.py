"""Frames' actions and rewards on the latent clock, to the off-by-one."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from copies import Copies
from latents.episodes import numbered

from fastdreamer.latents.batch import align, crop
from fastdreamer.shapes import LatentClock

CLOCK = LatentClock(8, 33)


def test_the_chunk_into_step_k_is_the_c_actions_before_its_last_frame() -> None:
    batch = align(numbered(41, CLOCK), CLOCK)
    assert batch.latents.shape[1] == 6
    assert not batch.action_valid[0, 0].any(), "nothing leads into an episode's first step"
    for k in range(1, 6):
        assert batch.actions[0, k, :, 0].tolist() == list(range(8 * k - 8, 8 * k))
        assert batch.action_valid[0, k].all()
        assert float(batch.rewards[0, k]) == sum(range(8 * k - 7, 8 * k + 1))
    for k in range(5):
        assert batch.next_actions[0, k, :, 0].tolist() == list(range(8 * k, 8 * k + 8))
    assert not batch.next_valid[0, 5].any(), "no action is recorded after the last frame"
    assert batch.continues[0].tolist() == [1, 1, 1, 1, 1, 0]


def test_an_episode_that_stops_inside_a_chunk_keeps_its_last_reward_and_masks_the_rest() -> None:
    batch = align(numbered(12, CLOCK), CLOCK)  # 11 actions: 8 lead into step 1, 3 into step 2
    assert batch.action_valid[0, 2].tolist() == [True] * 3 + [False] * 5
    assert float(batch.rewards[0, 2]) == 9 + 10 + 11
    assert batch.continues[0].tolist() == [1, 1, 0] and bool(batch.reward_valid[0, 2])
    assert batch.target_valid[0].tolist() == [True, True, False], "padded frames are no prediction target"


def test_a_masked_last_frame_is_no_target_but_its_reward_stays() -> None:
    clock = LatentClock(1, 1)
    episode = numbered(5, clock)
    episode.valid[-1] = False
    batch = align(episode, clock)
    assert batch.target_valid[0].tolist() == [True] * 4 + [False]
    assert bool(batch.reward_valid[0, -1]) and float(batch.rewards[0, -1]) == 4.0 and float(batch.continues[0, -1]) == 0


def test_rewards_inside_a_chunk_are_discounted_by_the_frame() -> None:
    batch = align(numbered(9, CLOCK), CLOCK, frame_discount=0.5)
    assert float(batch.rewards[0, 1]) == pytest.approx(sum((j + 1) * 0.5**j for j in range(8)))


def test_positions_follow_the_window_protocol() -> None:
    batch = align(numbered(8 * 9 + 1, CLOCK), CLOCK)
    assert batch.positions[0].tolist() == [0, 1, 2, 3, 4, 1, 2, 3, 4, 1]


def test_wrong_number_of_latents_is_refused() -> None:
    episode = numbered(41, CLOCK)
    with pytest.raises(ValueError, match="5 latents for 41 frames"):
        align(replace(episode, latents=episode.latents[:-1]), CLOCK)


def test_a_crop_past_the_end_is_masked_padding() -> None:
    batch = crop(align(numbered(17, CLOCK), CLOCK), 1, 4)
    assert batch.latents[0, :, 0, 0].tolist() == [1, 2, 2, 2]
    for name in ("target_valid", "reward_valid"):
        assert getattr(batch, name)[0].tolist() == [True, True, False, False]
    assert not batch.next_valid[0, 1:].any() and not batch.action_valid[0, 2:].any()


def test_a_crop_that_starts_inside_keeps_the_chunk_that_led_into_it() -> None:
    batch = crop(align(numbered(41, CLOCK), CLOCK), 2, 3)
    assert batch.actions[0, 0, :, 0].tolist() == list(range(8, 16)) and bool(batch.action_valid[0, 0].all())


def test_unknown_actions_and_unknown_rewards_are_masked_each_for_themselves() -> None:
    episode = numbered(20, CLOCK)
    whole = align(episode, CLOCK)
    masks = {"action_valid", "next_valid", "reward_valid", "target_valid"}
    for change, hidden in (("labelled", {"action_valid", "next_valid"}), ("rewarded", {"reward_valid"})):
        batch = align(replace(episode, **{change: False}), CLOCK)
        for name in masks:
            assert getattr(batch, name).any() == (name not in hidden), (change, name)
        for name in masks - hidden:
            assert torch.equal(getattr(batch, name), getattr(whole, name))


@pytest.mark.parametrize(("device", "ahead"), [("cpu", False), ("meta", True)])
def test_who_copies_to_the_host_waits_for_the_copy(device: str, ahead: bool) -> None:
    batch = align(numbered(9, CLOCK), CLOCK)
    with Copies() as copies:
        batch.to(torch.device(device))
    assert copies.ahead == [ahead] * len(fields(batch))


def test_a_crop_of_stored_bytes_and_halves_is_wide() -> None:
    episode = numbered(20, CLOCK)
    stored = replace(episode, latents=episode.latents.half(), actions=episode.actions.to(torch.uint8))
    batch = crop(align(stored, CLOCK), 0, 5)
    assert batch.latents.dtype == torch.float32
    assert batch.actions.dtype == batch.next_actions.dtype == torch.int64
