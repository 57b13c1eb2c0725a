"""What batches hold: every start once an epoch, lengths, unlabelled video and rewards at their shares."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from latents.episodes import CLOCK, MIXED, episodes, equal, firsts, mixed, numbered, sampler

from fastdreamer.config import SamplingConfig
from fastdreamer.latents.batch import align, crop, stack
from fastdreamer.latents.crop_sampler import CropSampler, best
from fastdreamer.latents.resident import ResidentSteps
from fastdreamer.latents.schedule import Share, Starts
from fastdreamer.shapes import LatentClock


def drawn(source: CropSampler, batches: int) -> list[int]:
    return [start for number in range(batches) for start in firsts(source.batch(number))]


def test_every_start_of_every_episode_comes_once_an_epoch_in_another_order_each() -> None:
    source = sampler(episodes(12, 9, 3))  # 9, 6 and 1 starts: 16 an epoch, 4 batches
    starts = {*range(9), *range(1000, 1006), 2000}
    epochs = [drawn(source, 12)[i : i + 16] for i in (0, 16, 32)]
    for epoch in epochs:
        assert len(epoch) == 16 and set(epoch) == starts
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != sorted(epochs[0])
    assert drawn(sampler(episodes(12, 9, 3), seed=1), 4) != epochs[0]


@given(size=st.integers(1, 9), batch_size=st.integers(1, 25))
@settings(max_examples=40)
def test_epochs_stay_whole_when_batches_straddle_them(size: int, batch_size: int) -> None:
    starts = Starts([0], torch.tensor([size]), 1, seed=3)
    taken = torch.cat([starts.take(i * batch_size, batch_size)[1] for i in range(6)]).tolist()
    for epoch in range(6 * batch_size // size):
        assert sorted(taken[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_a_batch_is_a_function_of_its_number_alone() -> None:
    batches = [sampler(mixed(), **MIXED).batch(i) for i in range(40)]
    source = sampler(mixed(), **MIXED)
    for number in (39, 3, 17, 0, 39, 21):
        assert equal(source.batch(number), batches[number])
    assert not equal(batches[0], sampler(mixed(), seed=1, **MIXED).batch(0))


def test_short_batches_with_every_fourth_one_long() -> None:
    source = sampler(episodes(12, 9), short_window=2, long_every=4)
    batches = [source.batch(i) for i in range(20)]
    assert [b.latents.shape[1] for b in batches[:8]] == [2, 2, 2, 4, 2, 2, 2, 4]
    short = [start for b in batches if b.latents.shape[1] == 2 for start in firsts(b)]
    assert set(short[:19]) == {*range(11), *range(1000, 1008)}, "the short crops' own epoch is whole"
    long = [start for b in batches if b.latents.shape[1] == 4 for start in firsts(b)]
    assert set(long[:15]) == {*range(9), *range(1000, 1006)}


def test_single_step_batches_come_at_their_share_without_an_action() -> None:
    source = sampler(episodes(12, 9), single_step=0.3)
    batches = [source.batch(i) for i in range(100)]
    singles = [b for b in batches if b.latents.shape[1] == 1]
    assert len(singles) == 30
    assert set(start for b in singles for start in firsts(b)) == {*range(12), *range(1000, 1009)}
    assert not any(b.action_valid.any() for b in singles) and all(b.target_valid.all() for b in singles)
    short = CropSampler(episodes(12), CLOCK, 1, 12, 0).batch(0)  # phase 3's start context of one step is no such batch
    assert short.action_valid.sum() == 11


def test_unlabelled_video_has_its_share_to_the_row() -> None:
    source = sampler(mixed(), batch_size=7, unlabelled=0.4)
    counts = [int((~source.batch(i).labelled).sum()) for i in range(50)]
    assert set(counts) == {2, 3} and sum(counts) == 140  # 2.8 a batch
    rows = [(bool(b.labelled[i]), s) for b in map(source.batch, range(10)) for i, s in enumerate(firsts(b))]
    assert {s for is_labelled, s in rows[:70] if is_labelled} == {*range(9), *range(1000, 1006)}
    for share, expected in ((0.0, 0), (1.0, 7)):
        assert int((~sampler(mixed(), batch_size=7, unlabelled=share).batch(5).labelled).sum()) == expected


@pytest.mark.parametrize("labelled", [True, False])
def test_one_kind_of_video_alone_fills_the_batch(labelled: bool) -> None:
    found = episodes(12, 9, labelled=labelled)
    assert Counter(drawn(sampler(found, batch_size=5, unlabelled=0.4), 3)) == Counter([*range(9), *range(1000, 1006)])


@given(share=st.decimals(0, 1, places=3), seed=st.integers(0, 10**6), first=st.integers(0, 10**9))
def test_a_share_is_exact_over_any_stretch(share: Any, seed: int, first: int) -> None:
    of = Share(float(share), seed)
    assert of.before(0) == 0
    for count in (1, 8, 1000):
        assert abs(of.before(first + count) - of.before(first) - count * share) < 1
    assert of.before(first + 1000) - of.before(first) == 1000 * share


def test_episodes_are_drawn_by_their_reward_and_the_rest_in_turn() -> None:
    found = episodes(40, 40, 40)
    amounts = (1.0, 0.0, -3.0)  # of either sign
    found = [
        replace(e, rewards=torch.zeros(39).index_fill(0, torch.tensor([5]), a))
        for e, a in zip(found, amounts, strict=True)
    ]
    source = sampler(found, batch_size=8, reward_weighted=0.5)
    rows = [firsts(source.batch(i)) for i in range(300)]
    weighted = Counter(start // 1000 for row in rows for start in row[:4])
    assert weighted[1] == 0 and 0.7 < weighted[2] / weighted.total() < 0.8, weighted
    assert {start % 1000 for row in rows for start in row[:4]} == set(range(37)), "any start of the episode"
    plain = [start for row in rows for start in row[4:]]
    assert sorted(plain[:111]) == [*range(37), *range(1000, 1037), *range(2000, 2037)]


def test_rewards_that_are_unknown_or_zero_draw_nothing() -> None:
    known, unknown = episodes(9)[0], replace(numbered(9, CLOCK, offset=1000), rewarded=False)
    assert max(drawn(sampler([known, unknown], reward_weighted=1.0), 20)) < 1000
    with pytest.raises(ValueError, match="no labelled episode has a reward"):
        sampler([unknown], reward_weighted=0.5)


@pytest.mark.parametrize("clock", [CLOCK, LatentClock(8, 33)])
def test_crops_cut_by_index_are_those_of_the_aligned_episodes(clock: LatentClock) -> None:
    found = [replace(numbered(n, clock, offset=i), task=i) for i, n in enumerate((41, 12, 1, 90))]
    found[1] = replace(found[1], labelled=False, latents=found[1].latents.half(), rewarded=False)
    table = ResidentSteps(found, clock, 0.9)
    picks = [(e, s) for e, episode in enumerate(found) for s in range(len(episode.latents))]
    which, starts = torch.tensor(picks).T
    expected = stack([crop(align(found[e], clock, 0.9), s, 6) for e, s in picks])
    assert equal(table.cut(which, starts, 6), expected)


def test_host_memory_holds_the_latents_once() -> None:
    found = episodes(12, 9)
    table = ResidentSteps(found, CLOCK)
    own = [e.latents.untyped_storage().data_ptr() for e in found]
    assert [x.untyped_storage().data_ptr() for x in table._latents] == own
    assert all(value.shape[0] == 21 or value.ndim == 1 for value in table.fields.values())


def paying(found: list[Any], *amounts: float) -> list[list[Any]]:
    """The episodes once for each task, paying that much a step."""
    return [
        [replace(e, rewards=torch.full_like(e.rewards, amount), task=i) for e in found]
        for i, amount in enumerate(amounts)
    ]


def test_tasks_have_equal_shares_and_every_crop_has_its_own_tasks_rewards() -> None:
    found = episodes(12, 9)
    views = paying(found, 1.0, 20.0, 300.0)
    views[2][1] = replace(views[2][1], rewarded=False)
    source = CropSampler(views[0], CLOCK, 4, 4, 0, tasks=views)
    plain = CropSampler(found, CLOCK, 4, 4, 0)
    batches = [source.batch(number) for number in range(30)]
    assert Counter(int(task) for batch in batches for task in batch.task) == {0: 40, 1: 40, 2: 40}
    assert len({tuple(batch.task.tolist()) for batch in batches}) > 5, "the order within a batch changes"
    for number, batch in enumerate(batches):
        assert firsts(batch) == firsts(plain.batch(number)), "which crops come is not the tasks' business"
        for row, (task, first) in enumerate(zip(batch.task.tolist(), firsts(batch), strict=True)):
            is_known = not (task == 2 and first >= 1000)
            known = batch.reward_valid[row]
            assert bool(known[1:].any()) == is_known
            assert set(batch.rewards[row][known].tolist()) <= {(1.0, 20.0, 300.0)[task]}
    again = CropSampler(views[0], CLOCK, 4, 4, 0, tasks=views)
    assert equal(again.batch(17), batches[17])


def test_episodes_are_drawn_by_the_rewards_of_the_crops_task() -> None:
    found = episodes(12, 9)
    views = paying(found, 1.0, 1.0)
    for task, poor in ((0, 0), (1, 1)):
        views[task][poor] = replace(found[poor], rewards=torch.zeros_like(found[poor].rewards), task=task)
    by_reward = SamplingConfig(reward_weighted=1.0)
    source = CropSampler(views[0], CLOCK, 4, 6, 0, sampling=by_reward, tasks=views)
    for number in range(10):
        batch = source.batch(number)
        assert [first >= 1000 for first in firsts(batch)] == [int(task) == 0 for task in batch.task]
    views[1] = [replace(e, rewards=torch.zeros_like(e.rewards)) for e in views[1]]
    with pytest.raises(ValueError, match="to be drawn by"):
        CropSampler(views[0], CLOCK, 4, 6, 0, sampling=by_reward, tasks=views)


def test_actions_of_the_best_episodes_alone_are_to_be_cloned_and_the_rest_stays_as_it_was() -> None:
    found = episodes(12, 9, 10, 7)  # returns 66, 36, 45 and 21
    found[1] = replace(found[1], rewards=found[1].rewards * 3)
    whole, some = sampler(found), sampler(found, clone_top=0.5)
    for number in range(12):
        all_of_it, batch = whole.batch(number), some.batch(number)
        assert equal(replace(batch, next_valid=all_of_it.next_valid), all_of_it)
        for row, first in enumerate(firsts(batch)):
            wanted = all_of_it.next_valid[row] & (first < 2000)
            assert torch.equal(batch.next_valid[row], wanted)


def test_what_is_cloned_depends_on_the_crops_task() -> None:
    found = episodes(12, 9)
    views = paying(found, 1.0, 1.0)
    views[1][0] = replace(views[1][0], rewards=torch.zeros_like(found[0].rewards))
    source = CropSampler(views[0], CLOCK, 4, 4, 0, sampling=SamplingConfig(clone_top=0.5), tasks=views)
    for number in range(12):
        batch = source.batch(number)
        is_cloned = batch.next_valid.any(-1).any(-1).tolist()
        assert is_cloned == [
            (first < 1000) == (task == 0) for first, task in zip(firsts(batch), batch.task, strict=True)
        ]


def test_another_tasks_return_may_say_what_is_cloned() -> None:
    found = episodes(12, 9)
    ranked = paying(found, 1.0)[0]
    ranked[0] = replace(ranked[0], rewards=torch.zeros_like(found[0].rewards))
    half = SamplingConfig(clone_top=0.5)
    own, other = (CropSampler(found, CLOCK, 4, 4, 0, sampling=half, ranked=ranks) for ranks in ((), ranked))
    for source, cloned in ((own, 0), (other, 1)):
        batch = source.batch(0)
        assert [first >= 1000 for first in firsts(batch)] == [
            bool(is_cloned) == bool(cloned) for is_cloned in batch.next_valid.any(-1).any(-1)
        ]
        torch.testing.assert_close(batch.rewards, own.batch(0).rewards)


def test_the_best_are_a_share_of_the_labelled_episodes_with_rewards_in_order_where_alike() -> None:
    found = paying(episodes(5, 5, 5, 5, 5), 1.0)[0]
    assert best(found, 0.3).tolist() == [True, True, False, False, False]
    found[0], found[1] = replace(found[0], labelled=False), replace(found[1], rewarded=False)
    assert best(found, 0.34).tolist() == [False, False, True, True, False]
    with pytest.raises(ValueError, match="to choose what to clone by"):
        best([replace(e, rewarded=False) for e in found], 0.5)
