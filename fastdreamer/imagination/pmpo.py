"""PMPO: the policy objective that needs only the sign of the advantage.

Source: Dreamer 4 (arXiv:2509.24527), Eq. 11; Abdolmaleki et al. 2024, arXiv:2410.04166. The plan's -(A log pi) is the
special case without the separate means and the prior; those are kept because without them the larger set dominates
and the policy leaves the data.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Shares:
    """What each imagined step counts for in the three means of PMPO; each sums to 1 over the batch, or is all 0."""

    positive: Float[Tensor, "*b"]
    negative: Float[Tensor, "*b"]
    all: Float[Tensor, "*b"]


def pmpo_shares(advantage: Float[Tensor, "*b"], weight: Float[Tensor, "*b"]) -> Shares:
    """D+ = {A >= 0} and D- = {A < 0}: each set is averaged separately, so their sizes do not matter.

    Args:
        advantage: only its sign counts.
        weight: probability that the imagined step is before the episode's end.
    """
    is_positive = (advantage >= 0).to(weight.dtype)

    def share(weights: Tensor) -> Tensor:
        return weights / weights.sum().clamp(min=1e-8)

    return Shares(share(weight * is_positive), share(weight * (1 - is_positive)), share(weight))


def pmpo_loss(
    log_prob: Float[Tensor, "*b"],
    kl_prior: Float[Tensor, "*b"],
    shares: Shares,
    alpha: float = 0.5,
    beta: float = 0.3,
) -> dict[str, Tensor]:
    """(1-alpha) mean_{D-} ln pi - alpha mean_{D+} ln pi + beta mean KL; an empty set contributes 0.

    Args:
        log_prob: ln pi of the whole chunk.
        kl_prior: KL[pi || prior], closed form.
        shares: weights of the same steps, from the whole batch they belong to.
        alpha: weight of the positive set.
        beta: weight of the prior.

    Returns:
        `policy` (the objective), `positive`, `negative`, `prior` (its three terms, unscaled).
    """
    positive, negative = (log_prob * shares.positive).sum(), (log_prob * shares.negative).sum()
    prior = (kl_prior * shares.all).sum()
    policy = (1 - alpha) * negative - alpha * positive + beta * prior
    return {"policy": policy, "positive": positive, "negative": negative, "prior": prior}
