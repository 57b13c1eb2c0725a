"""All episodes aligned at once: bit for bit what `align` makes of each."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from latents.episodes import Numbered, numbered

from fastdreamer.latents import joined as module
from fastdreamer.latents.batch import Batch, align, arriving_rewards
from fastdreamer.latents.joined import joined, joined_rewards
from fastdreamer.shapes import LatentClock

CLOCKS = (LatentClock(1, 1), LatentClock(4, 9), LatentClock(3, 4))
NAMES = [f.name for f in fields(Batch) if f.name != "latents"]


def some(frames: list[int], clock: LatentClock, seed: int = 0) -> list[Numbered]:
    """Episodes of every kind: unlabelled, without rewards, ended in between, with frames that are not to be trusted."""
    generator = torch.Generator().manual_seed(seed)

    def bits(count: int) -> torch.Tensor:
        return torch.rand(count, generator=generator) < 0.7

    return [
        replace(
            numbered(count, clock),
            actions=torch.randint(0, 200, (count - 1, 3), generator=generator).byte(),
            rewards=torch.randn(count - 1, generator=generator),
            terminals=bits(count - 1), valid=bits(count), labelled=place % 3 != 1, rewarded=place % 4 != 2, task=place,
        )
        for place, count in enumerate(frames)
    ]  # fmt: skip


@given(st.lists(st.integers(1, 14), min_size=1, max_size=7), st.sampled_from(CLOCKS), st.integers(1, 3))
def test_it_is_align_of_each(frames: list[int], clock: LatentClock, at_once: int) -> None:
    episodes = some(frames, clock)
    wanted = [align(episode, clock, 0.97) for episode in episodes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AT_ONCE", at_once)
        found, paid = joined(episodes, clock, 0.97), joined_rewards(episodes, clock, 0.97)
    assert sorted(found) == sorted(NAMES)
    for name in NAMES:
        whole = torch.cat([getattr(b, name) if getattr(b, name).ndim == 1 else getattr(b, name)[0] for b in wanted])
        assert found[name].dtype == whole.dtype and torch.equal(found[name], whole), name
    for one, each in zip(paid, zip(*(arriving_rewards(e, clock, 0.97) for e in episodes), strict=True), strict=True):
        assert torch.equal(one, torch.cat(each))


def test_latents_that_are_not_the_clocks_are_refused() -> None:
    wrong = replace(numbered(9, CLOCKS[1]), latents=torch.zeros(5, 16, 16))
    with pytest.raises(ValueError, match="5 latents for 9 frames at 4 a step; the clock gives 3"):
        joined([numbered(9, CLOCKS[1]), wrong], CLOCKS[1])


def test_hundreds_of_episodes_take_as_many_operations_as_two() -> None:
    """Operations of PyTorch that are not a cast of an episode's own arrays."""

    def operations(count: int) -> int:
        episodes = some([9] * count, CLOCKS[1])
        with torch.profiler.profile() as profile:
            joined(episodes, CLOCKS[1])
        casts = ("aten::to", "aten::_to_copy", "aten::copy_", "aten::empty_strided", "aten::empty_like")
        return sum(event.name.startswith("aten::") and event.name not in casts for event in profile.events() or ())

    assert operations(module.AT_ONCE) <= operations(2) + 2
