"""The transformer's masks and its ring cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastdreamer.config import DynamicsConfig, ForcingConfig
from fastdreamer.dynamics.attention import angles_of
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.shapes import LatentClock

SIZES = (3, 5)


def build(**settings: int | float) -> WorldModel:
    """A small model with a random read-out of unit scale, as latents have (the real one starts at zero: hides all)."""
    torch.manual_seed(0)
    base = dict(dim=32, layers=4, heads=4, kv_heads=2, time_every=2, registers=1, window=12, context=4)
    model = WorldModel(DynamicsConfig(**(base | settings)), ForcingConfig(finest_steps=8), LatentClock(2, 5), SIZES)
    torch.nn.init.normal_(model.readout.weight, std=model.config.dim**-0.5)
    for block in model.transformer.blocks:
        for layer in (block.attention.out, block.feed_forward.down):
            torch.nn.init.normal_(layer.weight, std=0.2)
    return model.eval()


def inputs(batch: int = 2, steps: int = 12) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    actions = [torch.randint(s, (batch, steps, 2, 1), generator=generator) for s in SIZES]
    return {
        "noisy": torch.randn(batch, steps, 16, 16, generator=generator),
        "signal": torch.randint(8, (batch, steps), generator=generator),
        "step_size": torch.randint(4, (batch, steps), generator=generator),
        "actions": torch.cat(actions, -1),
    }


def embed(model: WorldModel, actions: torch.Tensor) -> torch.Tensor:
    valid = torch.ones(actions.shape[:3], dtype=torch.bool)
    valid[:, 0] = False
    return model.embed_actions(actions, valid, torch.ones(len(actions), dtype=torch.bool))


def whole(model: WorldModel, x: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(x["noisy"], x["signal"], x["step_size"], embed(model, x["actions"]))


@pytest.mark.parametrize("soft_cap", [0.0, 20.0])
@torch.no_grad()
def test_cached_steps_equal_one_banded_forward_past_eviction(soft_cap: float) -> None:
    model, x = build(soft_cap=soft_cap), inputs()
    expected = whole(model, x)
    cache, action = model.new_cache(2), embed(model, x["actions"])
    for t in range(12):
        at = slice(t, t + 1)
        spoiled = torch.randn(2, 1, 16, 16)  # a denoising pass before: its slot must be overwritten
        model(spoiled, x["signal"][:, at], x["step_size"][:, at], action[:, at], cache)
        got = model(x["noisy"][:, at], x["signal"][:, at], x["step_size"][:, at], action[:, at], cache)
        cache.advance(x["noisy"][:, at], x["signal"][:, at])
        torch.testing.assert_close(got, expected[:, at], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
@pytest.mark.parametrize("silent", [1, 2, 3])
@torch.no_grad()
def test_silent_steps_leave_the_cache_and_the_steps_behind_them_as_a_whole_pass_does(layers: int, silent: int) -> None:
    model, x = build(layers=layers, registers=2), inputs(steps=5)
    action, caches = embed(model, x["actions"]), [model.new_cache(2, steps=3) for _ in range(2)]
    given = x["noisy"], x["signal"], x["step_size"], action
    for cache in caches:
        model(*(part[:, :2] for part in given), cache)
        cache.advance(x["noisy"][:, :2], x["signal"][:, :2])
    now = [part[:, 2:] for part in given]
    whole, (rest, read) = model(*now, caches[0]), model.read(*now, None, caches[1], silent)
    assert read is None and rest.shape == whole[:, silent:].shape
    torch.testing.assert_close(rest, whole[:, silent:], rtol=1e-5, atol=1e-5)
    for one, other in zip(*(cache.tensors() for cache in caches), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_registers_leave_the_first_block_as_they_would_after_attending_over_time(kv_heads: int) -> None:
    model = build(kv_heads=kv_heads, registers=3)
    block, registers = model.transformer.blocks[0], model.tokens.registers
    angles = angles_of(torch.arange(6), model.transformer.width)
    whole, _ = block(registers.expand(2, 6, -1, -1), None, 0, slice(None), None, None, angles)
    once = block.of_equals(registers)
    torch.testing.assert_close(once.expand_as(whole), whole, rtol=1e-5, atol=1e-5)
    weigh = torch.randn(whole.shape)
    given = [registers, *(p for name, p in block.named_parameters() if "y_norm" not in name)]  # not of queries and keys
    wanted = torch.autograd.grad((whole * weigh).sum(), given)
    for got, want in zip(torch.autograd.grad((once * weigh).sum(), given), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_truncated_window_is_a_different_function() -> None:
    model, x = build(), inputs()
    tail = {k: v[:, -4:] for k, v in x.items()}
    far = (whole(model, tail)[:, -1] - whole(model, x)[:, -1]).abs().max()
    assert far > 1e-3, "with two time layers information travels further than the band"


@pytest.mark.parametrize("context", [4, 12])
@torch.no_grad()
def test_a_change_at_one_step_leaves_earlier_steps_unchanged(context: int) -> None:
    model, x = build(context=context), inputs()
    before = whole(model, x)
    for name in ("noisy", "signal", "step_size", "actions"):
        changed = {k: v.clone() for k, v in x.items()}
        changed[name][:, 7] = changed[name][:, 7] + 1 if name == "noisy" else (changed[name][:, 7] + 1) % 3
        after = whole(model, changed)
        assert torch.equal(after[:, :7], before[:, :7]), name
        assert not torch.allclose(after[:, 7], before[:, 7]), name


@torch.no_grad()
def test_time_attention_reaches_as_far_as_the_band_and_no_further() -> None:
    model, x = build(layers=2), inputs()  # one time layer
    before = whole(model, x)
    changed = x | {"noisy": x["noisy"].clone()}
    changed["noisy"][:, 2] += 1
    moved = (whole(model, changed) - before).abs().amax((0, 2, 3)) > 1e-6
    assert moved.tolist() == [False, False, True, True, True, True] + [False] * 6


@torch.no_grad()
def test_agent_tokens_read_everything_and_nothing_reads_them() -> None:
    model, x = build(), inputs()
    args = (x["noisy"], x["signal"], x["step_size"], embed(model, x["actions"]))
    plain = model(*args)
    clean_a, read_a = model.read(*args, torch.zeros(2, 3, 32))
    clean_b, read_b = model.read(*args, torch.randn(2, 3, 32))
    assert torch.equal(clean_a, clean_b), "changing agent tokens changes no bit of the world"
    assert torch.equal(clean_a, plain), "nor do they by being there"
    assert not torch.allclose(read_a, read_b)
    changed = x["noisy"].clone()
    changed[:, 3] += 1
    moved = (model.read(changed, *args[1:], torch.zeros(2, 3, 32))[1] - read_a).abs().amax((0, 2, 3)) > 1e-6
    assert not moved[:3].any() and bool(moved[3])


@torch.no_grad()
def test_permuting_a_chunk_changes_its_token_and_missing_actions_are_none() -> None:
    model, x = build(), inputs()
    x["actions"][:, 5, 0], x["actions"][:, 5, 1] = torch.tensor([0, 1]), torch.tensor([2, 3])
    token = embed(model, x["actions"])
    swapped = embed(model, x["actions"].flip(2))
    assert not torch.allclose(token[:, 5], swapped[:, 5])
    valid = torch.zeros(x["actions"].shape[:3], dtype=torch.bool)
    none = model.embed_actions(x["actions"], valid, torch.ones(2, dtype=torch.bool))
    assert torch.equal(none, model.tokens.actions.none.expand_as(none))
    unlabelled = model.embed_actions(x["actions"], ~valid, torch.tensor([True, False]))
    assert torch.equal(unlabelled[1], none[1]) and not torch.equal(unlabelled[0], none[0])


def test_normalisation_is_by_position_and_inverts() -> None:
    model = build()
    model.set_statistics(torch.randn(3, 16), torch.rand(3, 16) + 0.5)
    raw, positions = torch.randn(2, 4, 16, 16), torch.tensor([[0, 1, 2, 1], [1, 2, 1, 2]])
    normal = model.normalise(raw, positions)
    torch.testing.assert_close(model.denormalise(normal, positions), raw)
    torch.testing.assert_close(normal[0, 0, 3], (raw[0, 0, 3] - model.mean[0]) / model.std[0])


class Masks(TorchDispatchMode):
    """Notes the last two axes of every boolean tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.seen |= {
            tuple(x.shape[-2:]) for x in tree_leaves(out) if isinstance(x, torch.Tensor) and x.dtype == torch.bool
        }
        return out


@pytest.mark.parametrize(("context", "most"), [(24, 0), (4, 2 * 4 * 8), (5, 2 * 5 * 10)])
def test_no_mask_over_all_pairs_of_steps_is_built(context: int, most: int) -> None:
    model, x = build(window=24, context=context), inputs(steps=24)  # 24 x 24 pairs, twice for grouped queries
    action = embed(model, x["actions"])
    with Masks() as masks:
        model(x["noisy"], x["signal"], x["step_size"], action).sum().backward()
    sizes = [a * b for a, b in masks.seen]
    assert max(sizes, default=0) == most, masks.seen
