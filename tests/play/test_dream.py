"""The dream's static program against the plain sampler, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastdreamer.dynamics.sampler import commit, sample_next
from fastdreamer.play.dream import Dream, compile_ahead
from fastdreamer.play.loaded import Loaded
from fastdreamer.play.session import Session
from fastdreamer.system import compiling

from .conftest import CHUNKED, SINGLE, TOKENS

KINDS = {
    "c1": SINGLE,
    "c4": CHUNKED,
    "unmerged": (*SINGLE, "imagination.merge_commit=off"),
    "tokens": (*CHUNKED, *TOKENS),
    "linear": (*SINGLE, "dynamics.linear_start=true", "forcing={levels: sampled, boot_fraction: 0.0}"),
}
STEPS = 8  # past the ring's first eviction


def draws(loaded: Loaded, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents, actions, known and noise of `count` real steps, then noise of as many dreamt ones."""
    generator = torch.Generator().manual_seed(5)
    c = loaded.clock.frames_per_latent
    latents = torch.randn(count, 16, 16, generator=generator)
    actions = torch.randint(17, (count + STEPS, c, 1), generator=generator)
    known = torch.ones(count + STEPS, c, dtype=torch.bool)
    known[0] = False
    return latents, actions, known, torch.randn(count + STEPS, 2, 16, 16, generator=generator)


@torch.no_grad()
def plain(loaded: Loaded, count: int) -> tuple[list[Tensor], list[Tensor | None]]:
    """The same dream, straight from the sampler: latents, and what agent tokens read."""
    latents, actions, known, noise = draws(loaded, count)
    world, agent = loaded.world, loaded.agents[3]
    tokens = agent.embed_tokens(torch.zeros(1, dtype=torch.int64))
    cache = world.new_cache(1, agent.token_count)
    dreamt, reads = [], []
    for step in range(count + STEPS):
        token = world.embed_actions(actions[step][None, None], known[step][None, None], torch.ones(1).bool())
        state = latents[step][None] if step < count else sample_next(world, cache, token[:, 0], noise[step, 0][None])
        read = commit(world, cache, state[:, None], token, noise[step, 1][None, None], tokens)
        if step >= count - 1:
            dreamt.append(state[0])
            reads.append(None if read is None else read[0, -1])
    return dreamt, reads


def begun(loaded: Loaded, count: int) -> Dream:
    latents, actions, known, noise = draws(loaded, count)
    dream = Dream(loaded)
    dream.begin(latents, actions[:count], known[:count], noise[:count, 1], step=count - 1)
    return dream


def dreamt(dream: Dream, count: int, first: int = 0, last: int = STEPS) -> list[Tensor]:
    """Takes the dreamt steps first .. last-1; returns the latents of each."""
    _, actions, _, noise = draws(dream.loaded, count)
    found = []
    for step in range(count + first, count + last):
        dream.step(actions[step].numpy(), noise[step])
        found.append(dream.state())
    return found


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_program_dreams_what_the_plain_sampler_does(make: Callable[..., Loaded], kind: str, count: int) -> None:
    loaded = make(*KINDS[kind])
    assert loaded.merges == (kind not in ("unmerged", "tokens"))
    expected, reads = plain(loaded, count)
    dream = begun(loaded, count)
    assert torch.allclose(dream.state(), expected[0], atol=1e-6)
    for step, (state, read) in enumerate(zip(expected[1:], reads[1:], strict=True)):
        (found,) = dreamt(dream, count, step, step + 1)
        assert torch.allclose(found, state, atol=2e-5 * float(state.abs().max())), step
        assert read is None or torch.allclose(dream.save().read, read, atol=1e-4)
    assert float((expected[-1] - expected[0]).square().mean()) > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_a_kept_moment_is_gone_on_from_bit_for_bit(make: Callable[..., Loaded], kind: str) -> None:
    loaded = make(*KINDS[kind])
    dream = begun(loaded, 3)
    kept = [dream.save()]
    first = []
    for step in range(STEPS):
        first += dreamt(dream, 3, step, step + 1)
        kept.append(dream.save())
    for back in (STEPS - 1, 3, 0):
        for tensor in dream.cache.tensors():
            tensor.fill_(float("nan"))  # what is not put back would be seen
        dream.restore(kept[back])
        for tensor in dream.cache.tensors():
            tensor.nan_to_num_(nan=7.0)
        assert dream.step_number == 2 + back
        assert all(torch.equal(a, b) for a, b in zip(dreamt(dream, 3, back), first[back:], strict=True))


def test_moments_share_what_they_have_in_common(single: Loaded) -> None:
    dream = begun(single, 3)
    before = dream.save()
    dreamt(dream, 3, 0, 1)
    after = dream.save()
    assert all(a is b for a, b in zip(before.slots, after.slots, strict=False))
    assert dream.state_bytes < 3 * sum(slot.numel() * 4 for slot in after.slots[-1:]) + 8 * 2**10


def test_actions_noise_and_task_move_the_dream_and_nothing_else_does(single: Loaded) -> None:
    def after(action: int, shift: float = 0.0, known: bool = True) -> Tensor:
        dream = begun(single, 3)
        noise = draws(single, 3)[3][3] + shift
        dream.step(np.array([[action]]), noise, np.array([known]))
        return dream.state()

    assert torch.equal(after(1), after(1))
    assert not torch.equal(after(1), after(2)) and not torch.equal(after(1), after(1, 0.5))
    assert torch.equal(after(1, known=False), after(2, known=False)) and not torch.equal(
        after(1), after(1, known=False)
    )


def test_fewer_denoising_steps_are_those_of_the_plain_sampler(make: Callable[..., Loaded]) -> None:
    from dataclasses import replace

    loaded = make(*SINGLE)
    assert loaded.denoising == [1, 2, 4, 8] and loaded.world.forcing.sample_steps == 4
    dream = begun(loaded, 3)
    kept = dream.save()
    usual = dreamt(dream, 3)
    dream.restore(kept)
    dream.denoising = 2
    found = dreamt(dream, 3)
    other = make(*SINGLE)
    other.world.forcing = replace(other.world.forcing, sample_steps=2)
    expected = plain(other, 3)[0][1:]
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(found, expected, strict=True))
    assert not torch.allclose(found[0], usual[0], atol=1e-3) and loaded.world.forcing.sample_steps == 4


def test_a_model_that_knows_its_own_levels_alone_offers_no_others(make: Callable[..., Loaded]) -> None:
    levels = "forcing={levels: sampled, boot_fraction: 0.0, finest_steps: 8, sample_steps: 2}"
    assert make(*SINGLE, levels).denoising == [1, 2]


@pytest.mark.parametrize("kind", ["c1", "c4"])
def test_the_decoder_draws_the_newest_step(make: Callable[..., Loaded], kind: str) -> None:
    loaded = make(*KINDS[kind])
    dream = begun(loaded, 3)
    dreamt(dream, 3, 0, 2)
    assert loaded.decoder is not None
    with torch.no_grad():
        expected = (loaded.decoder(dream.state()[None])[0] * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(dream.pictures(), expected) and len(expected) == loaded.clock.frames_per_latent
    shown = begun(loaded, 1).pictures()
    assert (shown == shown[-1:]).all(), "an episode's first step has a single frame"


@pytest.mark.parametrize("kind", ["c1", "c4"])
def test_without_a_decoder_the_tokenizer_draws(make: Callable[..., Loaded], kind: str) -> None:
    dream = begun(make(*KINDS[kind], decodes=False), 3)
    before = dream.pictures()
    dreamt(dream, 3, 0, 1)
    after = dream.pictures()
    assert after.shape == (dream.loaded.clock.frames_per_latent, 64, 64, 3) and after.dtype == np.uint8
    assert not np.array_equal(before, after)


def test_chance_is_a_function_of_session_episode_and_step() -> None:
    from fastdreamer.play.chance import Chance

    first = Chance(1, 2).noise(3)
    assert torch.equal(first, Chance(1, 2).noise(3)) and abs(float(first.std()) - 1) < 0.2
    others = [Chance(1, 2).noise(4), Chance(1, 3).noise(3), Chance(2, 2).noise(3)]
    assert not any(torch.equal(first, other) for other in others) and not torch.equal(first[0], first[1])
    chunks = {tuple(Chance(1, 2).random_chunk(step, 4, (17,)).ravel()) for step in range(8)}
    uniforms = {float(Chance(1, 2).uniform(step, 1, 17)[0, 0]) for step in range(8)}
    assert len(chunks) == len(uniforms) == 8


def test_a_session_meets_no_shape_that_was_not_compiled_ahead(single: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    met, new = set[object](), list[object]()

    def compiled(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            shapes = tuple(x.shape if torch.is_tensor(x) else type(x) for x in tree_leaves((args, kwargs)))
            key = (function.__qualname__, shapes)
            new.extend([key] if key not in met else [])
            met.add(key)
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(compiling, "compiled", compiled)
    loaded, lines = replace(single, backend=replace(single.backend, compiles=True)), list[str]()
    compile_ahead(loaded, lines.append)
    assert len(new) >= 2 and len(lines) == 1
    new.clear()
    session = Session(loaded)
    for step in range(20):
        session.step([step % 6])
    session.fork()
    session.step([1])
    assert new == []
    compile_ahead(single, lines.append)
    assert len(lines) == 1, "nothing is compiled there"
