"""Lambda-returns and PMPO, against their definitions."""

from __future__ import annotations

import pytest
import torch

from fastdreamer.imagination.pmpo import pmpo_loss, pmpo_shares
from fastdreamer.imagination.returns import lambda_returns, survival

G = torch.Generator().manual_seed(0)
REWARDS, VALUES = torch.randn(3, 5, generator=G), torch.randn(3, 5, generator=G)
ALIVE = torch.ones(3, 5)


def test_lambda_one_is_the_discounted_sum_and_the_bootstrap() -> None:
    got = lambda_returns(REWARDS, ALIVE, VALUES, 0.9, 1.0)
    powers = 0.9 ** torch.arange(5)
    torch.testing.assert_close(got[:, 0], (REWARDS * powers).sum(1) + 0.9**5 * VALUES[:, -1])


def test_lambda_zero_is_one_step() -> None:
    torch.testing.assert_close(lambda_returns(REWARDS, ALIVE, VALUES, 0.9, 0.0), REWARDS + 0.9 * VALUES)


def test_an_end_stops_the_return() -> None:
    continues = ALIVE.clone()
    continues[:, 2] = 0
    got = lambda_returns(REWARDS, continues, VALUES, 0.9, 0.95)
    torch.testing.assert_close(got[:, 2], REWARDS[:, 2])
    later = REWARDS.clone()
    later[:, 3:] += 100
    torch.testing.assert_close(lambda_returns(later, continues, VALUES, 0.9, 0.95)[:, :3], got[:, :3])


def test_survival_weighs_states_by_what_came_before_them() -> None:
    continues = torch.tensor([[1.0, 0.5, 0.0, 1.0]])
    assert survival(continues).tolist() == [[1.0, 1.0, 0.5, 0.0]]


def _loss(log_prob: torch.Tensor, advantage: torch.Tensor, **settings: float) -> dict[str, torch.Tensor]:
    shares = pmpo_shares(advantage, torch.ones_like(log_prob))
    return pmpo_loss(log_prob, torch.zeros_like(log_prob), shares, **settings)


def test_only_the_sign_of_the_advantage_counts() -> None:
    log_prob, advantage = -torch.rand(40, generator=G), torch.randn(40, generator=G)
    assert torch.equal(_loss(log_prob, advantage)["policy"], _loss(log_prob, 17.3 * advantage)["policy"])


def test_zero_advantage_belongs_to_the_positive_set() -> None:
    terms = _loss(torch.tensor([-1.0, -3.0]), torch.tensor([0.0, -1.0]))
    assert float(terms["positive"]) == -1.0 and float(terms["negative"]) == -3.0
    assert float(terms["policy"]) == pytest.approx(0.5 * -3.0 - 0.5 * -1.0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_empty_set_contributes_nothing_and_stays_finite(sign: float) -> None:
    log_prob = (-torch.rand(8, generator=G)).requires_grad_()
    terms = _loss(log_prob, sign * torch.ones(8))
    terms["policy"].backward()
    assert log_prob.grad is not None and bool(log_prob.grad.isfinite().all())
    torch.testing.assert_close(log_prob.grad, torch.full((8,), -sign * 0.5 / 8))


def test_duplicating_one_set_leaves_both_terms_unchanged() -> None:
    log_prob, advantage = -torch.rand(20, generator=G), torch.randn(20, generator=G)
    once = _loss(log_prob, advantage)
    lost = advantage < 0
    twice = _loss(torch.cat([log_prob, log_prob[lost]]), torch.cat([advantage, advantage[lost]]))
    torch.testing.assert_close(once["positive"], twice["positive"])
    torch.testing.assert_close(once["negative"], twice["negative"])


def test_steps_after_an_end_count_for_nothing() -> None:
    log_prob, advantage = -torch.rand(6, generator=G), torch.randn(6, generator=G)
    weight = torch.tensor([1.0, 1, 1, 0, 0, 0])
    got = pmpo_loss(log_prob, torch.rand(6), pmpo_shares(advantage, weight))
    want = pmpo_loss(log_prob[:3], torch.zeros(3), pmpo_shares(advantage[:3], weight[:3]))
    assert torch.equal(got["positive"], want["positive"]) and torch.equal(got["negative"], want["negative"])
