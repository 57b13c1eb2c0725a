"""The linear start: the exact posterior of a linear model, the same through every path, fitted in one pass."""

from __future__ import annotations

import pytest
import torch

from fastdreamer.config import DynamicsConfig, ForcingConfig
from fastdreamer.dynamics.linear import WIDTH, LinearDynamics, Transitions
from fastdreamer.dynamics.sampler import commit, commit_and_sample_next, sample_next
from fastdreamer.dynamics.tokens import joined, parted
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.shapes import LatentClock

FINEST = 8
SMALL = dict(dim=32, layers=4, heads=4, kv_heads=2, time_every=2, registers=1, window=12, context=4, linear_start=True)


def world(chunk: int = 1, sizes: tuple[int, ...] = (3,), trained: bool = True, **settings: int) -> WorldModel:
    """Far from its start where it is `trained`: a linear start that moves, and a network that says something."""
    torch.manual_seed(0)
    clock = LatentClock(chunk, 1 if chunk == 1 else 1 + 2 * chunk)
    model = WorldModel(DynamicsConfig(**(SMALL | settings)), ForcingConfig(finest_steps=FINEST), clock, sizes).eval()
    if trained:
        assert model.linear is not None
        model.linear.weight.normal_(std=0.02)
        model.linear.variance.uniform_(0.05, 0.5)
        torch.nn.init.normal_(model.readout.weight, std=model.config.dim**-0.5)
        for block in model.transformer.blocks:
            torch.nn.init.normal_(block.attention.out.weight, std=0.2)
    return model


def play(model: WorldModel, steps: int = 12, batch: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    chunk = model.clock.frames_per_latent
    parts = [torch.randint(size, (batch, steps, chunk, 1), generator=generator) for size in model.sizes]
    valid = torch.ones(batch, steps, chunk, dtype=torch.bool)
    valid[:, 0] = False
    return {
        "noisy": torch.randn(batch, steps, 16, 16, generator=generator),
        "signal": torch.randint(FINEST, (batch, steps), generator=generator),
        "action": model.embed_actions(torch.cat(parts, -1), valid, torch.ones(batch, dtype=torch.bool)),
    }


def linear_game(count: int) -> tuple[Transitions, torch.Tensor, torch.Tensor]:
    """Transitions of a linear game of three actions with noise of spread 0.3; its matrices and shifts."""
    generator = torch.Generator().manual_seed(2)
    matrices = torch.randn(3, WIDTH, WIDTH, generator=generator) * 0.03
    shifts = torch.randn(3, WIDTH, generator=generator) * 0.2
    before = torch.randn(count, WIDTH, generator=generator)
    taken = torch.randint(3, (count,), generator=generator)
    after = torch.empty_like(before)
    for action in range(3):
        rows = taken == action
        after[rows] = before[rows] + before[rows] @ matrices[action] + shifts[action]
    after += 0.3 * torch.randn(after.shape, generator=generator)
    return Transitions(before, after, torch.nn.functional.one_hot(taken, 3).float()), matrices, shifts


@torch.no_grad()
def test_an_untrained_network_is_the_exact_denoiser_of_linear_data() -> None:
    _, matrices, shifts = linear_game(1)
    model = world(trained=False)
    assert model.linear is not None
    own = torch.cat([matrices, shifts[:, None]], 1).flatten(0, 1)
    model.linear.weight.copy_(torch.cat([torch.zeros(WIDTH + 1, WIDTH), own]))
    model.linear.variance.fill_(0.09)
    generator = torch.Generator().manual_seed(3)
    before = torch.randn(1, 2, 16, 16, generator=generator)
    actions, known = torch.tensor([[[[0]], [[1]]]]), torch.tensor([[[False], [True]]])
    action = model.embed_actions(actions, known, torch.ones(1, dtype=torch.bool))
    index = FINEST - 1  # the step before, at the clearest level
    tau = torch.tensor(index / FINEST)
    for level in (0, 3, FINEST - 1):
        seen = model(before, torch.tensor([[index, level]]), torch.zeros(1, 2, dtype=torch.long), action)[
            0, 1
        ].flatten()
        power = tau**2 + (1 - tau) ** 2
        x = before[0, 0].flatten() * tau / power
        mean = x + x @ matrices[1] + shifts[1]
        rho, t = tau**2 / power, level / FINEST
        s2 = rho * 0.09 + 1 - rho
        expected = mean + t * s2 / ((1 - t) ** 2 + t**2 * s2) * (before[0, 1].flatten() - t * mean)
        torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-5)


def test_fitting_finds_the_game() -> None:
    game, matrices, shifts = linear_game(12_000)
    linear = LinearDynamics(3, True)
    assert linear.fit([game]) == 12_000
    fresh = torch.randn(500, WIDTH, generator=torch.Generator().manual_seed(9))
    for action in range(3):
        hot = torch.zeros(1, 500, 3)
        hot[..., action] = 1
        found = linear(fresh[None].unflatten(-1, (16, 16)), torch.ones(1, 500), hot)
        left = found.mean[0].flatten(1) - fresh - fresh @ matrices[action] - shifts[action]
        assert float(left.square().mean()) < 0.012, "a tenth of the noise's variance, from 4,000 samples of an action"
    assert abs(float(linear.variance.mean()) / 0.09 - 1) < 0.1


def test_fitting_in_pieces_reads_each_transition_once_and_is_the_same() -> None:
    game, _, _ = linear_game(900)
    whole, pieces = LinearDynamics(3, True), LinearDynamics(3, True)
    whole.fit([game])
    cuts = [slice(0, 1), slice(1, 400), slice(400, 900)]
    assert pieces.fit(iter([Transitions(game.before[c], game.after[c], game.action[c]) for c in cuts])) == 900
    torch.testing.assert_close(whole.weight, pieces.weight)
    torch.testing.assert_close(whole.variance, pieces.variance)


def test_many_choices_shift_the_prediction_and_learn_it() -> None:
    generator = torch.Generator().manual_seed(4)
    before = torch.randn(4000, WIDTH, generator=generator)
    hot = (torch.rand(4000, 40, generator=generator) < 0.2).float()
    shifts = torch.randn(40, WIDTH, generator=generator)
    linear = LinearDynamics(40, False)
    linear.fit([Transitions(before, 0.5 * before + hot @ shifts, hot)])
    found = linear(before[None].unflatten(-1, (16, 16)), torch.ones(1, 4000), hot[None]).mean[0].flatten(1)
    assert float((found - 0.5 * before - hot @ shifts).square().mean()) < 0.05
    assert tuple(linear.weight.shape) == (WIDTH + 1 + 40, WIDTH)


def test_a_rare_action_stays_near_the_common_matrix() -> None:
    game, _, _ = linear_game(3000)
    rare = Transitions(game.before[:1], -5 * game.before[:1], torch.tensor([[0.0, 0.0, 1.0]]))
    common = game.action[:, 2] == 0
    linear = LinearDynamics(3, True)
    linear.fit([Transitions(game.before[common], game.after[common], game.action[common]), rare])
    own, asked = linear.weight.view(4, WIDTH + 1, WIDTH)[3], 6 * float(game.before[0].norm())
    assert float((LinearDynamics.features(game.before[0]) @ own).norm()) < 0.8 * asked
    assert float(own[-1].norm()) < 0.05 * asked


@pytest.mark.parametrize("tokens", [1, 4, 16])
@pytest.mark.parametrize("chunk, sizes", [(1, (3,)), (8, (2, 11, 7))])
@torch.no_grad()
def test_cached_steps_equal_one_forward_pass(chunk: int, sizes: tuple[int, ...], tokens: int) -> None:
    model = world(chunk, sizes, spatial_tokens=tokens)
    assert model.linear is not None and model.linear.has_matrices is (chunk == 1)
    x = play(model)
    size = torch.zeros_like(x["signal"])
    expected = model(x["noisy"], x["signal"], size, x["action"])
    cache = model.new_cache(2)
    for t in range(12):
        at = slice(t, t + 1)
        model(torch.randn(2, 1, 16, 16), x["signal"][:, at], size[:, at], x["action"][:, at], cache)  # overwritten
        got = model(x["noisy"][:, at], x["signal"][:, at], size[:, at], x["action"][:, at], cache)
        cache.advance(x["noisy"][:, at], x["signal"][:, at])
        torch.testing.assert_close(got, expected[:, at], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_merged_commits_equal_the_plain_order() -> None:
    model = world()
    x = play(model, steps=8)
    noise = torch.randn(16, 2, 16, 16, generator=torch.Generator().manual_seed(5))
    plain, merged = model.new_cache(2), model.new_cache(2, steps=2)
    a = b = x["noisy"][:, 0]
    for k in range(7):
        commit(model, plain, a[:, None], x["action"][:, k : k + 1], noise[2 * k][:, None])
        a = sample_next(model, plain, x["action"][:, k + 1], noise[2 * k + 1])
        b = commit_and_sample_next(
            model, merged, b, x["action"][:, k], noise[2 * k], x["action"][:, k + 1], noise[2 * k + 1]
        )
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_step_without_a_past_has_the_prior() -> None:
    model = world()
    assert model.linear is not None
    x = play(model, steps=2)
    first = model.linear_start(x["noisy"], x["signal"], x["action"])
    assert first is not None and torch.equal(first.variance[:, 0], torch.ones(2, 16, 16))


@torch.no_grad()
def test_a_reset_cache_has_no_past() -> None:
    model = world()
    x = play(model, steps=3)
    size = torch.zeros_like(x["signal"][:, :1])
    cache = model.new_cache(2)
    cold = model(x["noisy"][:, :1], x["signal"][:, :1], size, x["action"][:, :1], cache)
    cache.advance(x["noisy"][:, :1], x["signal"][:, :1] * 0 + 7)
    cache.reset()
    torch.testing.assert_close(model(x["noisy"][:, :1], x["signal"][:, :1], size, x["action"][:, :1], cache), cold)


@pytest.mark.parametrize("count", [1, 4, 16])
def test_joined_tokens_are_squares_of_neighbours_and_come_apart_again(count: int) -> None:
    latents = torch.arange(2 * 3 * 256.0).view(2, 3, 16, 16)
    assert torch.equal(parted(joined(latents, count)), latents)
    if count == 4:  # the first square of the 4x4 grid: tokens 0, 1, 4, 5
        assert torch.equal(joined(latents, 4)[0, 0, 0].view(4, 16), latents[0, 0, [0, 1, 4, 5]])
