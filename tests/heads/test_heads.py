"""Heads: what they start as, what they read, and the closed-form KL."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from fastdreamer.config import HeadsConfig
from fastdreamer.heads.policy import Policy, cloning_loss
from fastdreamer.heads.reward import TwoHotHead, continuation_loss, shares_of

CONFIG = HeadsConfig(hidden=32, layers=2, bins=41, reward_range=3.0)
SIZES = (3, 5)


def policy() -> Policy:
    torch.manual_seed(0)
    return Policy(CONFIG, 8, 2, SIZES)


def test_heads_start_uniform_and_at_zero() -> None:
    net, x = policy(), torch.randn(4, 8)
    entropy = net.entropy(net(x))
    torch.testing.assert_close(entropy, torch.full((4,), 2 * float(torch.tensor([3.0, 5.0]).log().sum())))
    reward = TwoHotHead(CONFIG, 8, 3.0)
    assert torch.equal(reward.decode(reward(x)), torch.zeros(4))


def test_log_prob_sums_to_the_chunks_probability() -> None:
    net = policy()
    logits = torch.randn(6, 2, 8)
    actions = net.act(logits, generator=torch.Generator().manual_seed(0))
    got = net.log_prob(logits, actions).sum((-2, -1))
    want = sum(
        torch.distributions.Categorical(logits=part).log_prob(actions[..., i])
        for i, part in enumerate(logits.split(SIZES, -1))
    )
    torch.testing.assert_close(got, want.sum(-1))


def test_sampling_follows_the_probabilities() -> None:
    net = policy()
    logits = torch.zeros(20_000, 2, 8)
    logits[..., 0] = 2.0
    drawn = net.act(logits, generator=torch.Generator().manual_seed(0))
    share = (drawn[..., 0] == 0).float().mean()
    assert abs(float(share) - float(torch.tensor([2.0, 0, 0]).softmax(0)[0])) < 0.01
    assert int(drawn[..., 1].min()) == 0 and int(drawn[..., 1].max()) == 4


def test_kl_and_its_gradient_vanish_at_the_prior() -> None:
    net = policy()
    prior = torch.randn(5, 2, 8)
    logits = prior.clone().requires_grad_()
    kl = net.kl(logits, prior)
    kl.sum().backward()
    assert logits.grad is not None
    assert float(kl.detach().abs().max()) < 1e-6 and float(logits.grad.abs().max()) < 1e-6


def test_kl_is_the_sum_over_positions_and_components() -> None:
    net = policy()
    a, b = torch.randn(5, 2, 8), torch.randn(5, 2, 8)
    want = sum(
        F.kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="none").sum((-2, -1))
        for p, q in zip(a.split(SIZES, -1), b.split(SIZES, -1), strict=True)
    )
    torch.testing.assert_close(net.kl(a, b), want)


def test_missing_positions_do_not_train_the_policy() -> None:
    net = policy()
    logits = torch.randn(3, 2, 8, requires_grad=True)
    valid = torch.tensor([[True, True], [True, False], [False, False]])
    cloning_loss(net, logits, torch.zeros(3, 2, 2, dtype=torch.long), valid, torch.ones(3) / 3).backward()
    assert logits.grad is not None
    touched = logits.grad.abs().sum(-1) > 0
    assert torch.equal(touched, valid)


def test_focal_option_turns_down_what_is_already_right() -> None:
    net = policy()
    logits = torch.zeros(2, 2, 8)
    logits[0, :, 0] = logits[0, :, 3] = 6.0
    valid, actions = torch.ones(2, 2, dtype=torch.bool), torch.zeros(2, 2, 2, dtype=torch.long)
    plain, focal = (
        [float(cloning_loss(net, logits[i], actions[i], valid[i], torch.ones(()), gamma)) for i in range(2)]
        for gamma in (0.0, 2.0)
    )
    assert focal[0] / plain[0] < 0.01 < focal[1] / plain[1]


def test_two_hot_head_learns_a_value() -> None:
    head = TwoHotHead(CONFIG, 8, 3.0)
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    x, target = torch.randn(16, 8), torch.linspace(-2, 5, 16)
    for _ in range(200):
        loss = head.loss(head(x), target, shares_of(torch.ones(16)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(head.decode(head(x)), target, atol=0.1, rtol=0.05)


def test_continuation_ignores_steps_that_are_not_valid() -> None:
    logits, continues = torch.tensor([3.0, -50.0]), torch.tensor([1.0, 1.0])
    assert float(continuation_loss(logits, continues, shares_of(torch.tensor([1.0, 0.0])))) < 0.1


def test_shares_are_a_weighted_mean_and_nothing_where_no_row_counts() -> None:
    torch.testing.assert_close(shares_of(torch.tensor([1.0, 3.0])), torch.tensor([0.25, 0.75]))
    assert not shares_of(torch.zeros(3)).any()


def test_the_least_of_a_rewards_members_counts_and_each_learns_alike() -> None:
    torch.manual_seed(0)
    x, targets, shares = torch.randn(4, 3, 8), torch.rand(4, 3), shares_of(torch.rand(4, 3))
    head = TwoHotHead(CONFIG, 8, 3.0, members=3)
    nets = [head.net, *head.others]
    assert torch.equal(head.decode(head(x)), torch.zeros(4, 3)) and not head.is_trained
    for net in nets:
        torch.nn.init.normal_(net.out.weight)
    alone = TwoHotHead(CONFIG, 8, 3.0)
    each, losses = [], []
    for net in nets:
        alone.net = net
        each.append(alone.decode(alone(x)))
        losses.append(alone.loss(alone(x), targets, shares))
    assert len({float(one[0, 0].detach()) for one in each}) == 3
    torch.testing.assert_close(head.decode(head(x)), torch.stack(each).amin(0))
    loss = head.loss(head(x), targets, shares)
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    loss.backward()
    assert all(net.out.weight.grad is not None and net.out.weight.grad.any() for net in nets)


def test_one_member_is_the_head_of_before() -> None:
    assert TwoHotHead(CONFIG, 8, 3.0).state_dict().keys() == TwoHotHead(CONFIG, 8, 3.0, members=1).state_dict().keys()
    assert not any("others" in name for name in TwoHotHead(CONFIG, 8, 3.0).state_dict())
