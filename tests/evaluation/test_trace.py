"""A trace of play is an episode like those of a store: every step that was seen, the last one included."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from evaluation.test_closed_loop import ScriptedEncoder, ScriptedPolicy, ScriptedPool
from fastdreamer.evaluation.closed_loop import play
from fastdreamer.evaluation.payments import Trace
from fastdreamer.latents.batch import align
from fastdreamer.shapes import LatentClock


def traced(chunk: int) -> tuple[Trace, ScriptedEncoder]:
    trace, encoder = Trace(), ScriptedEncoder()
    play(ScriptedPolicy(chunk), ScriptedPool(), encoder, chunk, chunk, 10, "test", trace)
    return trace, encoder


def test_worlds_are_kept_to_their_own_ends() -> None:
    episodes = traced(1)[0].episodes("phase2", task=3)
    assert [e.length for e in episodes] == [4, 8, 11] and [e.name for e in episodes][:2] == ["phase2-0", "phase2-1"]
    for world, episode in enumerate(episodes):
        assert episode.latents.flatten().tolist() == list(range(episode.length)), "the last frame's step included"
        assert episode.rewards.tolist() == [1.0 + world] * (episode.length - 1)
        assert episode.task == 3 and episode.labelled and episode.rewarded
    assert [e.terminals.tolist().count(True) for e in episodes] == [1, 1, 0] and bool(episodes[0].terminals[-1])


def test_chunks_follow_the_latent_clock_and_the_last_is_padded_as_in_a_store() -> None:
    trace, encoder = traced(4)
    episodes, clock = trace.episodes("phase2"), LatentClock(4, 9)
    assert encoder.clips == [[*range(11), 10, 10]]
    assert [e.latents.flatten().tolist() for e in episodes] == [[0, 3], [0, 4, 7], [0, 4, 8, 10]]
    assert episodes[2].actions.flatten().tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    episodes = [replace(episode, actions=episode.actions[:, None]) for episode in episodes]
    batch = align(episodes[2], clock)
    assert batch.rewards[0].tolist() == [0.0, 12.0, 12.0, 6.0] and batch.continues[0].tolist() == [1.0] * 4
    assert align(episodes[1], clock).continues[0].tolist() == [1.0, 1.0, 0.0]


def test_play_is_the_same_with_and_without_a_trace() -> None:
    one, other = ScriptedPolicy(4), ScriptedPolicy(4)
    plain = play(one, ScriptedPool(), ScriptedEncoder(), 4, 4, 10, "test")
    kept = play(other, ScriptedPool(), ScriptedEncoder(), 4, 4, 10, "test", Trace())
    assert one.seen == other.seen and plain.returns.tolist() == kept.returns.tolist()


def test_a_trace_of_parts_of_chunks_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="whole chunks"):
        play(ScriptedPolicy(4), ScriptedPool(), ScriptedEncoder(), 4, 3, 10, "test", Trace())


def test_latents_are_kept_in_half_precision_of_the_worlds_that_play() -> None:
    trace = Trace()
    trace.see(torch.rand(3, 2, 2), torch.tensor([True, False, True]).numpy())
    ((worlds, latents),) = trace._seen
    assert worlds == [0, 2] and latents.shape == (2, 2, 2) and latents.dtype == torch.float16
