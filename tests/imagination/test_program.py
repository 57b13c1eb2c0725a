"""The static program gives the plain rollout, in K or K + 1 passes a step, from buffers that stay where they are."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from fastdreamer.device import Backend
from fastdreamer.dynamics.cache import CacheView, RingCache
from fastdreamer.errors import UserError
from fastdreamer.imagination import program as module
from fastdreamer.imagination.merging import merged_difference, prove_merged
from fastdreamer.imagination.program import build_program

from .worlds import BAND, CPU, TOKENS, Imagined, largest_difference, rollouts

LINEAR = ("dynamics.linear_start=true", "forcing.levels=sampled", "forcing.boot_fraction=0", "forcing.sample_steps=1")
SINGLE = (
    "tokenizer.frames_per_latent=1",
    "tokenizer.window=1",
    "tokenizer.weights=embedded",
    "dynamics.spatial_tokens=4",
)
HISTORY = ("heads.history=0.7", "heads.reward_reads=all", "heads.reward_members=2")
CASES = {
    "latents": ((), 1, 4),
    "latents, four real steps": (("dynamics.window=16", "dynamics.context=16"), 4, 3),
    "past eviction": (BAND, 1, 9),
    "past eviction, more real steps than slots": (BAND, 5, 6),
    "tasks": (("dynamics.tasks=2",), 2, 3),
    "soft-cap": (("dynamics.soft_cap=20",), 1, 3),
    "transition": (("heads.reward_reads=transition",), 1, 3),
    "linear start by shifts, rewards of actions": ((*LINEAR, "heads.reward_reads=action"), 1, 4),
    "linear start by matrices, four tokens, history": ((*LINEAR, *SINGLE, *HISTORY), 3, 4),
    "linear start past eviction, history": ((*BAND, *LINEAR, *HISTORY), 2, 9),
}
WITH_TOKENS = {
    "agent tokens": (TOKENS, 1, 4),
    "agent tokens past eviction, tasks": ((*TOKENS, *BAND, "dynamics.tasks=2"), 4, 7),
}


def made(case: str) -> tuple[Imagined, int]:
    overrides, context, horizon = (CASES | WITH_TOKENS)[case]
    return rollouts(*overrides, context=context), horizon


@pytest.mark.parametrize("case", [*CASES, *WITH_TOKENS])
def test_a_seeded_program_gives_the_plain_rollout(case: str) -> None:
    world, horizon = made(case)
    expected = world.reference(horizon)
    assert largest_difference(world.program(horizon)(world.batch), expected) < 1e-5
    assert float(expected.latents.std()) > 0.3 and len(expected.actions.unique()) > 3, "nothing moves"


@pytest.mark.parametrize("case", CASES)
def test_merged_commits_give_the_plain_rollout_too(case: str) -> None:
    world, horizon = made(case)
    assert largest_difference(world.program(horizon, merges=True)(world.batch), world.reference(horizon)) < 1e-5


def test_two_rollouts_differ_and_a_seeded_sequence_repeats() -> None:
    world = rollouts()
    first, again = world.program(4), world.program(4)
    one, two = first(world.batch), first(world.batch)
    assert not torch.equal(one.latents, two.latents) and not torch.equal(one.actions, two.actions)
    assert largest_difference(one, again(world.batch)) == largest_difference(two, again(world.batch)) == 0


def test_a_rollout_reads_the_policy_as_it_is_now() -> None:
    world = rollouts()
    program = world.program(4)
    before = program(world.batch)
    world.agent.policy.net.out.weight.mul_(-3)
    program.generator.manual_seed(3)
    after = program(world.batch)
    assert not torch.equal(before.actions, after.actions)
    assert largest_difference(after, world.reference(4)) < 1e-5


@pytest.mark.parametrize(("merges", "context"), [(False, 1), (True, 1), (False, 4), (True, 4)])
def test_passes_a_step(merges: bool, context: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world, passes = rollouts("dynamics.window=16", "dynamics.context=16", context=context), []
    read = world.world.read
    monkeypatch.setattr(world.world, "read", lambda x, *rest: (passes.append(x.shape[1]), read(x, *rest))[1])
    world.program(5, merges)(world.batch)
    k = world.config.forcing.sample_steps
    if merges:  # the last real step goes with the first imagined one
        real, step = [context - 1] * (context > 1), [2] + [1] * (k - 1)
    else:
        real, step = [context], [1] * (k + 1)
    assert passes == real + step * 5


def test_merged_commits_are_proved_on_the_model_and_refused_where_they_differ(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = rollouts(*BAND)
    assert 0 < prove_merged(world.world) < 1e-5
    assert capsys.readouterr().out.startswith("imagination: merged commits differ from the plain order by ")
    whole = RingCache.view

    def leaking(cache: RingCache, steps: int) -> CacheView:
        view = whole(cache, steps)
        return CacheView(view.steps, view.slots, torch.ones_like(view.mask)) if steps == 2 else view

    monkeypatch.setattr(RingCache, "view", leaking)
    assert merged_difference(world.world, 4) > 1e-3
    generator = torch.Generator()
    with pytest.raises(UserError, match="merged commits differ.*merge_commit=off") as caught:
        build_program(world.config, world.world, world.agent, 3, Backend(CPU, "fp32"), generator)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be merged where the policy reads agent tokens"):
        rollouts(*TOKENS).program(2, merges=True)
    with pytest.raises(UserError, match="merge_commit is on but heads.readout is agent_tokens"):
        rollouts(*TOKENS, "imagination.merge_commit=on")
    world = rollouts("imagination.capture=step")
    with pytest.raises(UserError, match="CUDA graphs need a GPU"):
        build_program(world.config, world.world, world.agent, 3, Backend(CPU, "fp32"), torch.Generator())


@pytest.mark.parametrize(("overrides", "merges"), [((), True), (TOKENS, False)])
def test_commits_are_merged_by_default_where_the_policy_reads_latents(
    overrides: tuple[str, ...], merges: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    world = rollouts(*overrides)
    program = build_program(world.config, world.world, world.agent, 3, Backend(CPU, "fp32"), torch.Generator())
    assert program.merges == merges and ("merged commits" in capsys.readouterr().out) == merges


def buffers(program: module.Program) -> dict[str, torch.Tensor]:
    own = {name: value for name, value in vars(program).items() if isinstance(value, torch.Tensor)}
    caches = [cache for pair in program.cache.layers for cache in pair]
    layers = {f"{i}.{name}": value for i, cache in enumerate(caches) for name, value in vars(cache).items()}
    return own | layers | {"position": program.cache.position}


def test_a_thousand_steps_move_no_buffer_keep_no_tensor_and_leave_no_gradient() -> None:
    world = rollouts(*BAND, "dynamics.layers=2", "forcing.sample_steps=1", count=1)
    program = world.program(20, merges=True)

    def live() -> tuple[int, int]:
        gc.collect()
        tensors = [t for t in gc.get_objects() if type(t) in (torch.Tensor, torch.nn.Parameter)]
        return len(tensors), sum(t.numel() for t in tensors)

    program(world.batch)
    places, before = {name: x.data_ptr() for name, x in buffers(program).items()}, live()
    for _ in range(50):
        rollout = program(world.batch)
        assert not rollout.features.requires_grad and rollout.latents.grad_fn is None
    del rollout
    assert len(places) >= 12 and {name: x.data_ptr() for name, x in buffers(program).items()} == places
    assert live() == before
    assert all(p.grad is None for model in (world.world, world.agent) for p in model.parameters())


def test_bf16_weights_cast_in_front_give_the_bits_of_casting_at_every_use() -> None:
    world = rollouts()
    backend = Backend(CPU, "bf16")
    with backend.autocast():
        expected = world.reference(3)
    got = world.program(3, backend=backend)(world.batch)
    assert torch.equal(got.latents, expected.latents) and torch.equal(got.actions, expected.actions)
    assert all(p.dtype == torch.float32 for p in world.world.parameters())


def test_every_noise_is_used_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one of the 2 noises a step is read twice or left out."""
    for merges in (False, True):
        world, seen = rollouts(context=2), []
        program = world.program(3, merges)
        row = module._row

        def noted(buffer: torch.Tensor, at: Any, of: module.Program = program, row: Any = row) -> torch.Tensor:
            if buffer is of.noise:
                seen.append(int(at))  # noqa: B023
            return row(buffer, at)

        with monkeypatch.context() as patch:
            patch.setattr(module, "_row", noted)
            program(world.batch)
        assert sorted(seen) == (list(range(1, 7)) if merges else list(range(2, 8))), merges
